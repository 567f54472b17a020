"""This module computes a full-rank part of an update whose moments are known in a subspace only: the gradient, scaled
in each channel as the rule scales that channel in the subspace.

    channel scale   phi = ||direction|| / ||low||     a channel: a column of a left projection, a row of a right one
    fira            phi o (gradient - up(low))        added to up(direction)   (Chen et al., 2024, arXiv:2410.01623)
    apollo          phi o gradient                    replaces it              (Zhu et al., 2024, arXiv:2412.05270)

From one step to the next its norm may grow by at most 1 %.
"""

from typing import Literal

from torch import Tensor

from peft_vision.optimizer.projection import Projection

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
