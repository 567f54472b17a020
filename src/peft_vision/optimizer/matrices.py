"""This module selects the trainable parameters that are projected matrices: those whose names a regular expression
matches."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.optimizer.projection import Projection


def check_matrices(named: Mapping[str, Tensor], pattern: str, rank: int) -> None:
    """Raise ConfigError where `pattern` matches no matrix, or one with a side shorter than `rank`."""
    matched = {name: tensor for name, tensor in named.items() if is_matrix(name, tensor, pattern)}
    if not matched:
        there = summary((name, tensor) for name, tensor in named.items() if tensor.ndim > 1)
        raise ConfigError(
            f"optimizer.matrices: '{pattern}' matches no matrix; of those that train there are {there or 'none'}"
        )
    smallest = min(matched, key=lambda name: min(shape(matched[name])))
    rows, columns = shape(matched[smallest])
    if rank > min(rows, columns):
        raise ConfigError(
            f"optimizer.rank: got {rank}, and {short(smallest)} is {rows} x {columns}; at most {min(rows, columns)}, "
            "or leave it out of optimizer.matrices"
        )


def is_matrix(name: str, parameter: Tensor, pattern: str) -> bool:
    """Return whether a parameter is to be projected; more than two axes count as a matrix of the first by the rest."""
    return parameter.ndim > 1 and re.search(pattern, name) is not None


def shape(parameter: Tensor) -> tuple[int, int]:
    """Return the rows and columns of a parameter as a matrix."""
    return parameter.shape[0], parameter.numel() // parameter.shape[0]


def short(name: str) -> str:
    """Return the name that timm uses."""
    return name.removeprefix("encoder.vit.")


def summary(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return a text such as "12 blocks.N.attn.qkv.weight (576 x 192)"."""
    kinds = Counter((re.sub(r"\b\d+\b", "N", short(name)), shape(parameter)) for name, parameter in named)
    return ", ".join(f"{count} {name} ({rows} x {columns})" for (name, (rows, columns)), count in kinds.items())


Update = Literal["low_rank", "fira", "apollo"]

_GROWTH = 1.01
_EPS = 1e-8


def full_rank_part(
    gradient: Tensor, low: Tensor, direction: Tensor, projection: Projection, *, update: Update, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the part (m, n) and its norm. `direction`: the rule's direction for `low`; `before`: the norm at the
    previous step."""
    rank_axis = 0 if projection.right is None else 1
    phi = direction.norm(dim=rank_axis, keepdim=True) / (low.norm(dim=rank_axis, keepdim=True) + _EPS)
    part = gradient.clone()
    if update == "fira":
        projection.add_up(part, low, alpha=-1.0)
    part *= phi
    norm = part.norm()
    if before is None:
        return part, norm
    too_much = (norm / (before + _EPS)).clamp_min(_GROWTH) / _GROWTH
    return part / too_much, norm / too_much
