"""Bottleneck adapters: a narrow MLP in every layer.

    f(x) = scale * up(dropout(activation(down(x))))

houlsby       after attention and after the MLP, before each is added to the residual stream  (arXiv:1902.00751)
pfeiffer      after the MLP, before it is added                                               (arXiv:2005.00247)
adaptformer   parallel to the MLP, reading the residual stream before the MLP's norm          (arXiv:2205.13535)
adapter_plus  after the layer, with a learned scale per channel and stochastic depth          (arXiv:2406.06820)
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from timm.layers import DropPath, QuickGELU
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import ALL, Around
from peft_vision.backbone.stage import Need
from peft_vision.core.config import component
from peft_vision.method.base import Method

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "quick_gelu": QuickGELU}
_SMALL = 0.01  # standard deviation of the small initial weights, truncated at two standard deviations
_BACKBONE = 0.02  # standard deviation of timm's linear layers


@component
class Bottleneck(Method):
    """A method that adds bottleneck adapters to the chosen layers.

    `placement`: after both attention and MLP, after the MLP, parallel to the MLP, or after the layer. `rank`: number of
    hidden units. `initial`: small weights; Kaiming's for `down` and zero for `up`, so that attaching changes nothing;
    or weights as in a fresh backbone. `channel_scale`: whether `scale` is the initial value of a learned scale per
    channel.
    """

    placement: Literal["attention_and_mlp", "mlp", "beside_mlp", "layer"]
    rank: PositiveInt
    activation: Literal["relu", "gelu", "quick_gelu"]
    initial: Literal["small", "zero_up", "backbone"]
    scale: PositiveFloat
    channel_scale: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]

    def needs(self) -> frozenset[Need]:
        return frozenset({"branches"})

    def attach(self, encoder: Encoder) -> None:
        """Add adapters of 2 * rank * D + rank + D parameters each for a stream of width D, and D more with channel
        scales. A layer without attention has an adapter less."""
        for stage in (encoder.stages[index] for index in self.chosen(encoder)):
            layer, branches = stage.module, stage.module.branches
            match self.placement:
                case "attention_and_mlp" | "mlp":
                    ends = [branch.end for name, branch in branches.items() if name in self.placement]
                    for end in ends:
                        setattr(layer, end, SequentialAdapter(getattr(layer, end), self._adapter(stage.width)))
                case "beside_mlp":
                    branches["mlp"].beside.append(ParallelAdapter(self._adapter(stage.width)))
                case "layer":
                    layer.behind.append(self._adapter(stage.width))

    def _adapter(self, width: int) -> "AdapterLayer":
        return AdapterLayer(width, self)


class AdapterLayer(nn.Module):
    """An adapter that computes f, without the skip connection."""

    def __init__(self, width: int, method: Bottleneck) -> None:
        super().__init__()
        self.down = nn.Linear(width, method.rank)
        self.activation = _ACTIVATIONS[method.activation]()
        self.dropout = nn.Dropout(method.dropout)
        self.up = nn.Linear(method.rank, width)
        self.scale = nn.Parameter(torch.full((width,), method.scale)) if method.channel_scale else method.scale
        self.drop_path = DropPath(method.drop_path)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)
        match method.initial:
            case "zero_up":
                nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
                nn.init.zeros_(self.up.weight)
            case "small":
                for weight in (self.down.weight, self.up.weight):
                    nn.init.trunc_normal_(weight, std=_SMALL, a=-2 * _SMALL, b=2 * _SMALL)
            case "backbone":
                for weight in (self.down.weight, self.up.weight):
                    nn.init.trunc_normal_(weight, std=_BACKBONE)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.drop_path(self.scale * self.up(self.dropout(self.activation(self.down(tokens)))))


class SequentialAdapter(Around):
    """A module that applies an adapter with a skip connection to the output of `inner`."""

    def __init__(self, inner: nn.Module, adapter: AdapterLayer) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.after(tokens, self.inner(tokens), ALL)

    def after(self, inputs: Tensor, outputs: Tensor, rows: slice) -> Tensor:
        """Return the outputs (B, N, D) of `inner`, adapted."""
        return outputs + self.adapter(outputs)


class ParallelAdapter(nn.Module):
    """An adapter parallel to a branch that reads the residual stream rather than its normed tokens."""

    def __init__(self, adapter: AdapterLayer) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, tokens: Tensor, normed: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.adapter(tokens)
