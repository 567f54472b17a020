"""Visual Prompt Tuning: learned tokens beside the image's (Jia et al., 2022, arXiv:2203.12119).

    deep      tokens_i = layer_i(tokens_{i-1} | tokens_{i-1}, prompts_i)      the prompts' outputs are thrown away
    shallow   tokens_0 = [tokens, prompts]                                    the prompts travel through every layer

For VPT-deep the outputs that the paper throws away are never computed: prompts are context, not queries. Prompts have
no position, so they stand behind the image's tokens, and they are gone before pooling.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import component
from peft_vision.method.base import Method


@component
class VPT(Method):
    """`projection`: width of the prompts before a shared linear map to the encoder's width (None: no map)."""

    num_prompts: PositiveInt
    deep: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    projection: PositiveInt | None

    def attach(self, encoder: Encoder) -> None:
        """VPT-deep: L * P * D parameters for L layers, P prompts, width D; VPT-shallow: P * D."""
        project = _projection(self.projection, encoder.width)
        width = self.projection or encoder.width
        patch_size = encoder.vit.patch_embed.patch_size
        bound = math.sqrt(6 / (3 * patch_size[0] * patch_size[1] + width))

        def prompts() -> Prompts:
            return Prompts(self.num_prompts, width, bound=bound, dropout=self.dropout, project=project)

        if self.deep:
            for layer in encoder.layers:
                layer.context = prompts()
        else:
            encoder.insert(Append(prompts()))


class Prompts(nn.Module):
    """P learned tokens, initialised as U(-bound, bound) with the paper's bound, sqrt(6 / (3 * patch area + width))."""

    def __init__(
        self, num_prompts: int, width: int, *, bound: float, dropout: float, project: nn.Linear | None
    ) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.empty(num_prompts, width).uniform_(-bound, bound))
        self.project = project
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: int) -> Tensor:
        """(1, P, D), or (batch, P, D) while dropout draws a mask for each image."""
        prompts = self.prompts if self.project is None else self.project(self.prompts)
        if self.training and self.dropout.p > 0:
            return self.dropout(prompts.expand(batch, -1, -1))
        return prompts.unsqueeze(0)


class Append(nn.Module):
    """Puts the prompts behind the tokens: (B, N, D) to (B, N + P, D)."""

    def __init__(self, prompts: Prompts) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self, tokens: Tensor) -> Tensor:
        """The tokens keep their places, so that the last layer drops the prompts by reading the first N."""
        prompts = self.prompts(tokens.shape[0])
        return torch.cat([tokens, prompts.expand(tokens.shape[0], -1, -1)], dim=1)


def _projection(width: int | None, out_width: int) -> nn.Linear | None:
    if width is None:
        return None
    project = nn.Linear(width, out_width)
    nn.init.kaiming_normal_(project.weight, mode="fan_out", nonlinearity="linear")
    return project
