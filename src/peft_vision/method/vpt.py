"""Visual Prompt Tuning: learned tokens next to those of the image (Jia et al., 2022, arXiv:2203.12119).

    deep      tokens_i = layer_i(tokens_{i-1} | tokens_{i-1}, prompts_i)      the prompts' outputs are discarded
    shallow   tokens_0 = [tokens, prompts]                                    the prompts pass through every layer
    pad       image = a border of learned pixels around the image             for models that have no tokens

Shallow prompts may also enter a later layer and pass from there to the end.

For VPT-deep the outputs that the paper discards are never computed: prompts are context, not queries. Prompts have no
position, so they follow the image's tokens, and they are dropped before pooling, unless `pool_prompts` is set.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.border import Border
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.stage import Need
from peft_vision.core.config import ConfigError, HashDefault, component
from peft_vision.method.base import Method
from peft_vision.method.prompts import Prompts, projection


@component
class VPT(Method):
    """A method that adds prompts to the chosen layers. `projection`: width of the prompts before a shared linear map to
    the encoder's width (None: no map). `location`: prompts are tokens, or a border of `num_prompts` pixels on each side
    of the image. `pool_prompts`: whether what pools all tokens also reads the prompts, as in the authors' code for Swin
    and MAE."""

    num_prompts: PositiveInt
    deep: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    projection: PositiveInt | None
    location: Annotated[Literal["tokens", "pad"], HashDefault("tokens")]
    pool_prompts: Annotated[bool, HashDefault(False)]

    def check(self, where: str = "method") -> None:
        """Raise ConfigError for what a border of pixels cannot be."""
        if self.location == "tokens":
            return
        if self.deep:
            raise ConfigError(
                f"{where}.location: got pad, but a border of pixels surrounds the image once; set {where}.deep=false"
            )
        unused = {"dropout": 0.0, "projection": None, "pool_prompts": False, "layers": "all"}
        for name, value in unused.items():
            if getattr(self, name) != value:
                shown = {None: "null", False: "false"}.get(value, value) if name != "dropout" else value
                raise ConfigError(f"{where}.{name}: has no meaning for a border of pixels; set {where}.{name}={shown}")

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Return whether the backbone drops or the prompts are projected: 0.1.0 gave the projection smaller initial
        weights."""
        return drops or self.projection is not None

    def needs(self) -> frozenset[Need]:
        return frozenset({"prompts"} if self.location == "tokens" else ())

    def border(self) -> int:
        return self.num_prompts if self.location == "pad" else 0

    def attach(self, encoder: Encoder) -> None:
        """Add L * P * D parameters for VPT-deep in L layers with P prompts of width D, P * D for VPT-shallow, 12 * P *
        (S + P) for a border around colour images of S pixels. Raise ConfigError for shallow prompts in layers other
        than all or last-N."""
        if self.location == "pad":
            encoder.border = Border(self.num_prompts, encoder.preprocessing)
            return
        indices = self.chosen(encoder)
        layers = [encoder.layers[index] for index in indices]
        last = len(encoder.layers) - 1
        if self.pool_prompts and encoder.trunk.shows_grid:
            raise ConfigError(
                "method.pool_prompts: got true, but the head reads a grid, which holds no prompts; set "
                "method.pool_prompts=false"
            )
        if self.pool_prompts:
            if indices[-1] != last:
                raise ConfigError(
                    f"method.pool_prompts: got true, but no prompts reach the end with method.layers={self.layers!r}"
                )
            encoder.trunk.pool_added()
        if self.deep:
            for index, layer, prompts in zip(indices, layers, self._prompts(encoder, indices), strict=True):
                if self.pool_prompts and index == last:  # the last ones are tokens, as their outputs are read
                    layer.entrance = Append(prompts)
                else:
                    layer.context = prompts
        elif indices == tuple(range(indices[0], last + 1)):
            layers[0].entrance = Append(*self._prompts(encoder, indices[:1]))
        else:
            raise ConfigError(
                f"method.layers: got {self.layers!r}, but shallow prompts travel to the last layer: all or last-N"
            )

    def _prompts(self, encoder: Encoder, indices: Sequence[int]) -> list[Prompts]:
        """Return the prompts of each layer at `indices`; layers of one width share a projection."""
        widths = [encoder.stages[index].width for index in indices]
        project = {width: projection(self.projection, width) for width in dict.fromkeys(widths)}
        first, patch_size = encoder.stages[0].width, encoder.trunk.patch_size
        return [
            Prompts(self.num_prompts, width, patch_size, dropout=self.dropout, project=project[width], stem_width=first)
            for width in widths
        ]


class Append(nn.Module):
    """A module that appends the prompts to the tokens: (B, N, D) to (B, N + P, D)."""

    def __init__(self, prompts: Prompts) -> None:
        super().__init__()
        self.prompts = prompts

    @property
    def num_added(self) -> int:
        """Return how many tokens are appended to those of each image."""
        return len(self.prompts.prompts)

    def forward(self, tokens: Tensor) -> Tensor:
        """Append the prompts after the tokens, so that the last layer drops them by reading only the first N."""
        prompts = self.prompts(tokens.shape[0])
        return torch.cat([tokens, prompts.expand(tokens.shape[0], -1, -1)], dim=1)
