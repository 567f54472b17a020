"""Visual Prompt Tuning: learned tokens next to those of the image (Jia et al., 2022, arXiv:2203.12119).

    deep      tokens_i = layer_i(tokens_{i-1} | tokens_{i-1}, prompts_i)      the prompts' outputs are discarded
    shallow   tokens_0 = [tokens, prompts]                                    the prompts pass through every layer

Shallow prompts may also enter a later layer and pass from there to the end.

For VPT-deep the outputs that the paper discards are never computed: prompts are context, not queries. Prompts have no
position, so they follow the image's tokens, and they are dropped before pooling.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.stage import Need
from peft_vision.core.config import ConfigError, component
from peft_vision.method.base import Method
from peft_vision.method.prompts import Prompts, projection


@component
class VPT(Method):
    """A method that adds prompts to the chosen layers. `projection`: width of the prompts before a shared linear map to
    the encoder's width (None: no map)."""

    num_prompts: PositiveInt
    deep: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    projection: PositiveInt | None

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Return whether the backbone drops or the prompts are projected: 0.1.0 gave the projection smaller initial
        weights."""
        return drops or self.projection is not None

    def needs(self) -> frozenset[Need]:
        return frozenset({"prompts"})

    def attach(self, encoder: Encoder) -> None:
        """Add L * P * D parameters for VPT-deep in L layers with P prompts of width D, P * D for VPT-shallow. Raise
        ConfigError for shallow prompts in layers other than all or last-N."""
        indices = self.chosen(encoder)
        layers = [encoder.layers[index] for index in indices]
        width, patch_size = encoder.stages[indices[0]].width, encoder.trunk.patch_size
        project = projection(self.projection, width)

        def prompts() -> Prompts:
            return Prompts(self.num_prompts, width, patch_size, dropout=self.dropout, project=project)

        if self.deep:
            for layer in layers:
                layer.context = prompts()
        elif indices == tuple(range(indices[0], len(encoder.layers))):
            layers[0].entrance = Append(prompts())
        else:
            raise ConfigError(
                f"method.layers: got {self.layers!r}, but shallow prompts travel to the last layer: all or last-N"
            )


class Append(nn.Module):
    """A module that appends the prompts to the tokens: (B, N, D) to (B, N + P, D)."""

    def __init__(self, prompts: Prompts) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self, tokens: Tensor) -> Tensor:
        """Append the prompts after the tokens, so that the last layer drops them by reading only the first N."""
        prompts = self.prompts(tokens.shape[0])
        return torch.cat([tokens, prompts.expand(tokens.shape[0], -1, -1)], dim=1)
