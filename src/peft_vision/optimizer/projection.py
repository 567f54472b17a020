"""This module projects a gradient into a subspace on one or both of its sides, and back.

    low = left^T @ gradient @ right        up(low) = left @ low @ right^T

A side that is not projected is left out of both.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from peft_vision.core.seeding import derive
from peft_vision.optimizer.basis import Algorithm, leading

Side = Literal["std", "reverse_std", "left", "right", "full"]


class Projection(NamedTuple):
    """A projection of a matrix (m, n): `left` (m, rank) or None, `right` (n, rank) or None; not both None."""

    left: Tensor | None
    right: Tensor | None

    def down(self, gradient: Tensor) -> Tensor:
        """Return the coordinates in the subspace of the gradient's part within it."""
        low = gradient if self.left is None else self.left.T @ gradient
        return low if self.right is None else low @ self.right

    def add_up(self, matrix: Tensor, low: Tensor, *, alpha: float) -> None:
        """Add `alpha` times up(low) to `matrix` in place, without creating another matrix of its size."""
        if self.left is not None and self.right is not None:
            matrix.addmm_(self.left @ low, self.right.T, alpha=alpha)
        elif self.left is not None:
            matrix.addmm_(self.left, low, alpha=alpha)
        else:
            matrix.addmm_(low, self.right.T, alpha=alpha)

    def turn_from(self, before: "Projection") -> "Projection":
        """Return the projection whose `down` maps coordinates in `before` to coordinates in this one."""
        return Projection(*(None if new is None else old.T @ new for old, new in zip(before, self, strict=True)))

    def squared(self) -> "Projection":
        """Return the projection with squared entries, by which variances of independent coordinates are rotated."""
        return Projection(*(None if basis is None else basis.square() for basis in self))


@dataclass(frozen=True)
class Subspaces:
    """The settings of how projections are computed. `side`: std, the shorter side (of equal ones the right);
    reverse_std, the longer; full, both. `lapack_signs`: whether singular vectors keep the signs of
    `torch.linalg.svd`."""

    rank: int
    side: Side
    algorithm: Algorithm
    lapack_signs: bool

    def of(self, gradient: Tensor, *, before: Projection | None, seed: int) -> Projection:
        """Return the projection onto the leading subspace of a gradient (m, n) in fp32, on the sides that `side`
        selects."""
        left, right = self._sides(*gradient.shape)
        if self.lapack_signs:
            rows, _, columns = torch.linalg.svd(gradient, full_matrices=False)
            rank = self.rank
            return Projection(rows[:, :rank] if left else None, columns[:rank].T if right else None)

        def basis(matrix: Tensor, old: Tensor | None, name: str) -> Tensor:
            side_seed = derive(seed, name)  # with one seed both sides would draw the same numbers
            return leading(matrix, self.rank, algorithm=self.algorithm, before=old, seed=side_seed).contiguous()

        old_left, old_right = before or (None, None)
        return Projection(
            basis(gradient, old_left, "left") if left else None,
            basis(gradient.T, old_right, "right") if right else None,
        )

    def _sides(self, rows: int, columns: int) -> tuple[bool, bool]:
        """Return whether the left side is projected, and whether the right side is."""
        if self.side == "full":
            return True, True
        if self.side in ("left", "right"):
            return self.side == "left", self.side == "right"
        right = (rows >= columns) == (self.side == "std")
        return not right, right


def cosine(new: Projection, old: Projection) -> float:
    """Return the absolute cosine between the first vectors of two bases, the smaller one for two sides."""
    pairs = [(first, second) for first, second in zip(new, old, strict=True) if first is not None]
    return min(float(torch.dot(first[:, 0], second[:, 0]).abs()) for first, second in pairs)
