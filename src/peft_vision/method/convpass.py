"""Convpass: convolutional bypasses around attention and MLP (Jie and Deng, 2022, arXiv:2207.07039).

    x + attention(LN x) + scale * bypass(LN x),    x + MLP(LN x) + scale * bypass(LN x)
    bypass(x) = up(dropout(act(conv3x3(act(down(x))))))

The convolution runs on the grid of patches; the class token, register tokens and prompts are treated as images of one
pixel each. The backbone's stochastic depth also drops bypasses, each independently of its branch, as in the authors'
code.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.stage import Need
from peft_vision.core.config import HashDefault, component
from peft_vision.method.base import Method


@component
class Convpass(Method):
    """A method that adds a bypass to attention and one to the MLP. `rank`: channels of the convolution. `initial`:
    initial weights of the convolution, the identity or Xavier's."""

    rank: PositiveInt
    scale: PositiveFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]
    initial: Annotated[Literal["identity", "xavier"], HashDefault("identity")]

    def needs(self) -> frozenset[Need]:
        return frozenset({"branches"})

    def attach(self, encoder: Encoder) -> None:
        """Add 2 * (2 * rank * D + D + rank + 9 * rank^2 + rank) parameters per layer of width D; the outputs stay the
        same at first."""
        for stage in (encoder.stages[index] for index in self.chosen(encoder)):
            for branch in stage.module.branches.values():
                bypass = Bypass(stage.width, self.rank, branch.drop_path, scale=self.scale, dropout=self.dropout)
                if self.initial == "xavier":
                    nn.init.xavier_uniform_(bypass.convolution.weight)
                bypass.grid = stage.grid
                bypass.single = stage.num_prefix
                branch.beside.append(bypass)


class Bypass(nn.Module):
    """A convolutional bypass. `grid`: rows and columns of patches, None where tokens lie on one; `single`: number of
    tokens before the patches; `drop_path`: the backbone's own module, which is not registered as a submodule here."""

    grid: tuple[int, int] | None
    single: int

    def __init__(self, width: int, rank: int, drop_path: nn.Module, *, scale: float, dropout: float) -> None:
        super().__init__()
        self._drop_path = (drop_path,)  # in a tuple, so not registered here: it belongs to the layer
        self.down = nn.Linear(width, rank)
        self.convolution = nn.Conv2d(rank, rank, 3, padding=1)
        self.up = nn.Linear(rank, width)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.dirac_(self.convolution.weight)  # the identity
        for module in (self.down, self.convolution, self.up):
            nn.init.zeros_(module.bias)
        nn.init.zeros_(self.up.weight)

    def forward(self, tokens: Tensor, normed: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D), or tokens on a grid, (B, H, W, D), to the same; where N is less than the tokens
        of an image, every token counts as a single pixel."""
        hidden = _quick_gelu(self.down(normed))
        if hidden.ndim == 4:
            hidden = self.convolution(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            hidden = self._convolved(hidden)
        return self._drop_path[0](self.scale * self.up(self.dropout(_quick_gelu(hidden))))

    def _convolved(self, hidden: Tensor) -> Tensor:
        """Convolve patches on their grid, and other tokens as images of one pixel: (B, N, rank) to (B, N, rank)."""
        rows, columns = self.grid
        patches = slice(self.single, self.single + rows * columns)
        if hidden.shape[1] < patches.stop:
            return self._single(hidden)
        image = hidden[:, patches].mT.unflatten(2, (rows, columns))
        return torch.cat(
            [
                self._single(hidden[:, : patches.start]),
                self.convolution(image).flatten(2).mT,
                self._single(hidden[:, patches.stop :]),
            ],
            dim=1,
        )

    def _single(self, hidden: Tensor) -> Tensor:
        """Apply the convolution to images of one pixel, which only its centre weights reach: (B, N, rank) to (B, N,
        rank)."""
        return nn.functional.linear(hidden, self.convolution.weight[:, :, 1, 1], self.convolution.bias)


def _quick_gelu(values: Tensor) -> Tensor:
    return values * torch.sigmoid(1.702 * values)
