"""Visual Prompt Tuning: learned tokens beside the image's (Jia et al., 2022, arXiv:2203.12119).

    deep      tokens_i = layer_i(tokens_{i-1} | tokens_{i-1}, prompts_i)      the prompts' outputs are thrown away
    shallow   tokens_0 = [tokens, prompts]                                    the prompts travel through every layer

Shallow prompts may also enter a later layer and travel from there to the end.

For VPT-deep the outputs that the paper throws away are never computed: prompts are context, not queries. Prompts have
no position, so they stand behind the image's tokens, and they are gone before pooling.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import ConfigError, component
from peft_vision.method.base import Method
from peft_vision.method.prompts import Prompts, projection


@component
class VPT(Method):
    """`projection`: width of the prompts before a shared linear map to the encoder's width (None: no map)."""

    num_prompts: PositiveInt
    deep: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    projection: PositiveInt | None

    def trained_otherwise(self, *, drops: bool) -> bool:
        """A projection began with smaller weights."""
        return drops or self.projection is not None

    def attach(self, encoder: Encoder) -> None:
        """VPT-deep: L * P * D parameters for L layers, P prompts, width D; VPT-shallow: P * D."""
        indices = self.chosen(encoder)
        layers = [encoder.layers[index] for index in indices]
        project = projection(self.projection, encoder.width)

        def prompts() -> Prompts:
            return Prompts(encoder, self.num_prompts, dropout=self.dropout, project=project)

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
    """Puts the prompts behind the tokens: (B, N, D) to (B, N + P, D)."""

    def __init__(self, prompts: Prompts) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self, tokens: Tensor) -> Tensor:
        """The tokens keep their places, so that the last layer drops the prompts by reading the first N."""
        prompts = self.prompts(tokens.shape[0])
        return torch.cat([tokens, prompts.expand(tokens.shape[0], -1, -1)], dim=1)
