"""RepAdapter: a linear adapter that is merged into the next layer after training (Luo et al., 2023, arXiv:2302.08106).

    x <- x + scale * B(dropout(A x)),    A: D to rank, B: rank to D in `groups`, both with biases

It stands before qkv and before the MLP's first layer, and is one adapter for all of it where the backbone has these in
several matrices. B is zero at the start: attaching changes nothing. After merging:

W' = W (I + scale B A),    b' = b + W scale (B a + b_B)
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Wrapper, linear
from peft_vision.backbone.stage import Need
from peft_vision.core.config import ConfigError, component
from peft_vision.method.base import Method


@component
class RepAdapter(Method):
    rank: PositiveInt
    groups: PositiveInt
    scale: PositiveFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]

    def needs(self) -> frozenset[Need]:
        return frozenset({"sites"})

    def attach(self, encoder: Encoder) -> None:
        """Add 2 * (rank * D + rank + rank * D / groups + D) parameters per layer of width D. Raise ConfigError where
        the rank exceeds D, or `groups` does not divide both."""
        stages = [encoder.stages[index] for index in self.chosen(encoder)]
        for width in sorted({stage.width for stage in stages}):
            if self.rank > width or self.rank % self.groups or width % self.groups:
                raise ConfigError(
                    f"method.rank: got {self.rank}, should be at most {width}; and it and the backbone's width, "
                    f"{width}, should be multiples of method.groups={self.groups}"
                )
        for names in (stage.matrices(place) for stage in stages for place in ("qkv", "fc1")):
            first = None
            for name in names:
                inner = encoder.part(name)
                if first is None:
                    first = InputAdapter(inner, self.rank, groups=self.groups, scale=self.scale, dropout=self.dropout)
                    encoder.replace(name, first)
                else:
                    encoder.replace(name, SharedInputAdapter(inner, first))


class InputAdapter(Wrapper):
    """A wrapper that adapts the inputs of `inner`. `up` (D, rank / groups): each group of outputs reads its own group
    of hidden units."""

    def __init__(self, inner: nn.Module, rank: int, *, groups: int, scale: float, dropout: float) -> None:
        super().__init__(inner)
        width = inner.in_features
        self.down = nn.Linear(width, rank)
        self.up = nn.Parameter(torch.zeros(width, rank // groups))
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)
        self.groups = groups
        self.scale = scale
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    @property
    def multiplies_inner(self) -> bool:
        return True

    def before(self, inputs: Tensor) -> Tensor:
        """Map the inputs (..., D) to those that `inner` reads, (..., D)."""
        hidden = self.dropout(self.down(inputs))
        return inputs + self.scale * (hidden @ self._up().mT + self.bias)

    def merged(self) -> nn.Linear:
        """Return a linear layer with the weight W' and the bias b'."""
        return self.merged_with(self.inner)

    def merged_with(self, inner: nn.Linear) -> nn.Linear:
        """Return `inner` with this adapter before it as one linear layer."""
        weight, bias = inner.weight.detach().flatten(1).double(), inner.bias
        up, down = self._up().detach().double(), self.down.weight.detach().double()
        shift = up @ self.down.bias.detach().double() + self.bias.detach().double()
        moved = self.scale * weight @ shift
        bias = moved if bias is None else bias.detach().double() + moved
        return linear(weight + self.scale * (weight @ up) @ down, bias, like=inner)

    def _up(self) -> Tensor:
        """Return B as a block-diagonal matrix (D, rank) with a block for each group."""
        return torch.block_diag(*self.up.chunk(self.groups))


class SharedInputAdapter(Wrapper):
    """A wrapper that adapts the inputs of `inner` by the adapter of another matrix with the same inputs."""

    def __init__(self, inner: nn.Module, adapter: InputAdapter) -> None:
        super().__init__(inner)
        self._shared = (adapter,)  # in a tuple, so not registered here: the other matrix owns it

    def before(self, inputs: Tensor) -> Tensor:
        """Map the inputs (..., D) to those that `inner` reads, (..., D)."""
        return self._shared[0].before(inputs)

    def merged(self) -> nn.Linear:
        """Return a linear layer with the weight W' and the bias b'."""
        return self._shared[0].merged_with(self.inner)
