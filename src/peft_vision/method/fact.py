"""FacT: one factorised update of all weights of the backbone (Jie and Deng, 2023, arXiv:2212.03145).

Every D x D block i of the weights (three of qkv, one of proj, four of fc1, four of fc2) gets x -> scale * x U S_i V. U
(D, rank) and V (rank, D) are shared by all blocks of all layers.

    TT   S_i is free, rank x rank
    TK   S_i = sum_k P_ik C_k,    a core C (rank, rank, rank) and a row P_i (rank) for each block

V is zero at the start: attaching changes nothing. Where the side of a weight is not a multiple of D, as in the MLPs of
DINOv2's giant, the last block is truncated: it uses only as many rows of U, or columns of V, as fit.

The other factors are initialised as in the authors' code (JieShibo/PETL-ViT), uniformly within +- a bound, for n blocks
in total:

    U               1 / sqrt(D)
    TT   S          1 / sqrt(rank); for fc2, whose blocks are one linear map there, 1 / sqrt(blocks * rank)
    TK   C          sqrt(3) / rank
         P          sqrt(6 / (rank + n))
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Wrapper, linear
from peft_vision.backbone.stage import Need
from peft_vision.core.config import ConfigError, component
from peft_vision.method.base import Method


@component
class FacT(Method):
    """A method that updates the linear layers of the chosen layers by shared factors. `dropout`: probability of
    dropping each of the rank values before V."""

    factorisation: Literal["tt", "tk"]
    rank: PositiveInt
    scale: PositiveFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Return True: version 0.1.0 initialised the factors differently."""
        return True

    def needs(self) -> frozenset[Need]:
        return frozenset({"sites"})

    def attach(self, encoder: Encoder) -> None:
        """Add 2 * D * rank parameters, and for n blocks n * rank^2 (TT) or rank^3 + n * rank (TK). Raise ConfigError
        where the rank exceeds D, or a weight has no side of D."""
        stages = [encoder.stages[index] for index in self.chosen(encoder)]
        width = stages[0].width
        if len(widths := {stage.width for stage in stages}) > 1:
            raise ConfigError(
                f"method: FacT shares its factors among layers of one width, and those chosen have "
                f"{' and '.join(map(str, sorted(widths)))}; choose by method.layers, such as last-2"
            )
        if self.rank > width:
            raise ConfigError(f"method.rank: got {self.rank}, but the blocks are {width} x {width}: at most {width}")
        names = [path for stage in stages for path in stage.matrices("qkv", "proj", "fc1", "fc2")]
        for name in names:
            inner = encoder.part(name)
            if width not in (inner.in_features, inner.out_features):
                raise ConfigError(
                    f"method: FacT needs weights with a side of {width}, and {name} is "
                    f"{inner.out_features} x {inner.in_features}"
                )
        blocks = [_blocks(encoder.part(name), width) for name in names]
        factors = Factors(width, self.rank, num_blocks=sum(blocks) if self.factorisation == "tk" else None)
        encoder.add_module(f"fact_{self.factorisation}", factors)
        for name in names:
            inner = encoder.part(name)
            encoder.replace(name, Factorised(inner, factors, scale=self.scale, dropout=self.dropout))


def _blocks(inner: nn.Module, width: int) -> int:
    """Return the number of blocks of a weight; the last block may be truncated."""
    return -(-max(inner.in_features, inner.out_features) // width)


class Factors(nn.Module):
    """The factors that all weights share: U, V and, with `num_blocks`, the number of blocks of all weights, the core
    C."""

    def __init__(self, width: int, rank: int, *, num_blocks: int | None) -> None:
        super().__init__()
        self.u = _uniform((width, rank), 1 / math.sqrt(width))
        self.v = nn.Parameter(torch.zeros(rank, width))
        self.core = None if num_blocks is None else _uniform((rank, rank, rank), math.sqrt(3) / rank)
        self.num_blocks = num_blocks

    def own(self, blocks: int, *, added: bool) -> nn.Parameter:
        """Return the parameter of a single weight of `blocks` blocks: P (blocks, rank) for TK, S (blocks, rank, rank)
        for TT. `added`: whether the outputs of its blocks are summed rather than concatenated."""
        rank = len(self.v)
        if self.core is not None:
            return _uniform((blocks, rank), math.sqrt(6 / (rank + self.num_blocks)))
        return _uniform((blocks, rank, rank), 1 / math.sqrt(blocks * rank if added else rank))

    def inner(self, own: Tensor) -> Tensor:
        """Return S of each block, (n, rank, rank), from the parameter of its weight."""
        return own if self.core is None else torch.einsum("nk,kab->nab", own, self.core)


class Factorised(Wrapper):
    """A wrapper around a linear layer of D x D blocks, side by side or stacked, that adds the update by the shared
    factors."""

    def __init__(self, inner: nn.Module, factors: Factors, *, scale: float, dropout: float) -> None:
        super().__init__(inner)
        width = len(factors.u)
        self._shared = (factors,)  # in a tuple, so not registered here: the encoder owns them once
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.own = factors.own(_blocks(inner, width), added=inner.in_features > width)

    @property
    def multiplies_inner(self) -> bool:
        return True

    @property
    def factors(self) -> Factors:
        return self._shared[0]

    def after(self, inputs: Tensor, outputs: Tensor, rows: slice) -> Tensor:
        """Add the update of inputs (..., I) to outputs (..., rows)."""
        width = len(self.factors.u)
        first, last, _ = rows.indices(self.out_features)
        s = self.factors.inner(self.own)
        if self.in_features > width:  # blocks side by side: each reads a part of the inputs, and outputs are summed
            missing = len(s) * width - self.in_features
            whole = nn.functional.pad(inputs, (0, missing)) if missing else inputs
            low = torch.einsum("...nd,da,nab->...b", whole.unflatten(-1, (len(s), width)), self.factors.u, s)
            update = self.dropout(low) @ self.factors.v[:, first:last]
        else:
            start = first // width
            s = s[start : -(-last // width)]
            low = torch.einsum("...d,da,nab->...nb", inputs, self.factors.u[: self.in_features], s)
            update = (self.dropout(low) @ self.factors.v).flatten(-2)[..., first - start * width : last - start * width]
        return outputs + self.scale * update

    def merged(self) -> nn.Linear:
        """Return a linear layer with the blocks' updates added to the weight."""
        s = self.factors.inner(self.own).detach().double()
        u, v = self.factors.u.detach().double(), self.factors.v.detach().double()
        blocks = torch.einsum("da,nab,bo->nod", u, s, v)  # a weight is outputs x inputs
        update = torch.cat(list(blocks), dim=1 if self.in_features > len(u) else 0)
        update = update[: self.out_features, : self.in_features]
        weight = self.inner.weight.detach().flatten(1).double()
        return linear(weight + self.scale * update, self.inner.bias, like=self.inner)


def _uniform(shape: tuple[int, ...], bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
