"""FacT: one factorised update of all weights of the backbone (Jie and Deng, 2023, arXiv:2212.03145).

Every D x D block i of the weights (three of qkv, one of proj, four of fc1, four of fc2) gets x -> scale * x U S_i V.
U (D, rank) and V (rank, D) are shared by all blocks of all layers.

    TT   S_i is free, rank x rank
    TK   S_i = sum_k P_ik C_k,    a core C (rank, rank, rank) and a row P_i (rank) for each block

V is zero at the start: attaching changes nothing.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Wrapper, linear, part
from peft_vision.config import ConfigError, component
from peft_vision.method.base import Method

_PLACES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@component
class FacT(Method):
    """`dropout`: of the rank values before V."""

    factorisation: Literal["tt", "tk"]
    rank: PositiveInt
    scale: PositiveFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]

    def attach(self, encoder: Encoder) -> None:
        """2 * D * rank parameters, and for n blocks n * rank^2 (TT) or rank^3 + n * rank (TK)."""
        width = encoder.vit.embed_dim
        if self.rank > width:
            raise ConfigError(f"method.rank: got {self.rank}, but the blocks are {width} x {width}: at most {width}")
        factors = Factors(width, self.rank, core=self.factorisation == "tk")
        encoder.add_module(f"fact_{self.factorisation}", factors)
        for index in self.chosen(encoder):
            for place in _PLACES:
                name = f"blocks.{index}.{place}"
                inner = encoder.vit.get_submodule(name)
                if inner.in_features % width or inner.out_features % width:
                    raise ConfigError(
                        f"method: FacT needs weights made of {width} x {width} blocks, and {name} is "
                        f"{inner.out_features} x {inner.in_features}"
                    )
                encoder.vit.set_submodule(name, Factorised(inner, factors, scale=self.scale, dropout=self.dropout))


class Factors(nn.Module):
    """U and V, and C where there is a core."""

    def __init__(self, width: int, rank: int, *, core: bool) -> None:
        super().__init__()
        self.u = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, rank)))
        self.v = nn.Parameter(torch.zeros(rank, width))
        self.core = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank))) if core else None

    def inner(self, own: Tensor) -> Tensor:
        """S of each block, (n, rank, rank), from what each has of its own."""
        return own if self.core is None else torch.einsum("nk,kab->nab", own, self.core)


class Factorised(Wrapper):
    """A linear layer of `blocks` D x D blocks, beside each other or above each other, and the shared factors."""

    def __init__(self, inner: nn.Module, factors: Factors, *, scale: float, dropout: float) -> None:
        super().__init__(inner)
        width, rank = factors.u.shape
        self.blocks = max(inner.in_features, inner.out_features) // width
        self._shared = (factors,)  # a tuple: they belong to the encoder, once
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        shape = (self.blocks, rank) if factors.core is not None else (self.blocks, rank, rank)
        self.own = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))

    @property
    def factors(self) -> Factors:
        return self._shared[0]

    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """(..., I) to (..., rows)."""
        width = self.factors.u.shape[0]
        first, last, _ = rows.indices(self.out_features)
        s = self.factors.inner(self.own)
        if self.in_features > width:  # blocks beside each other: each has a part of the inputs, and all are added
            low = torch.einsum("...nd,da,nab->...b", tokens.unflatten(-1, (self.blocks, width)), self.factors.u, s)
            update = self.dropout(low) @ self.factors.v[:, first:last]
        else:
            s = s[first // width : last // width]
            low = torch.einsum("...d,da,nab->...nb", tokens, self.factors.u, s)
            update = (self.dropout(low) @ self.factors.v).flatten(-2)
        return part(self.inner, tokens, rows) + self.scale * update

    def merged(self) -> nn.Linear:
        """The blocks' updates added to the weight."""
        s = self.factors.inner(self.own).detach().double()
        u, v = self.factors.u.detach().double(), self.factors.v.detach().double()
        blocks = torch.einsum("da,nab,bo->nod", u, s, v)  # a weight is outputs x inputs
        update = torch.cat(list(blocks), dim=1 if self.in_features > u.shape[0] else 0)
        return linear(self.inner.weight.detach().double() + self.scale * update, self.inner.bias, like=self.inner)
