"""This module projects a gradient into a subspace on one or both of its sides, and back.

    low = left^T @ gradient @ right        up(low) = left @ low @ right^T

A side that is not projected is left out of both.

`leading` computes an orthonormal basis of the subspace that holds most of a gradient: its leading left singular
vectors.

    svd          the singular value decomposition itself
    eigh         eigenvectors of the Gram matrix: the same subspace in a fraction of the time
    randomised   block Krylov iteration from random vectors: the same again (Musco & Musco, 2015, arXiv:1504.05477)
    power        subspace iteration from the previous basis (Robert et al., 2025, arXiv:2410.16103)
    random       neither a basis nor a projection: Gaussian vectors that keep lengths in the mean (Zhu et al., 2024,
                 arXiv:2412.05270)

Singular vectors have an arbitrary sign; here the largest entry of each is positive, whatever LAPACK returned.

The matrices that are projected are the trainable parameters whose names a regular expression matches.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.seeding import derive

Algorithm = Literal["svd", "eigh", "randomised", "power", "random"]

_OVERSAMPLING = 8  # vectors beyond the rank, that capture the rest of the spectrum
_BLOCKS = 3  # iterates that span the Krylov space
_TINY = torch.finfo(torch.float32).tiny


def leading(matrix: Tensor, rank: int, *, algorithm: Algorithm, before: Tensor | None, seed: int) -> Tensor:
    """Return the basis (a, rank), fp32, of a matrix (a, b). `before`: the previous basis, if any; `seed`: of random
    vectors.

    Raise torch.linalg.LinAlgError where LAPACK does not converge.
    """
    if algorithm == "random":
        return _gaussian(matrix, rank, seed) / rank**0.5
    matrix = matrix / matrix.abs().amax().clamp_min(_TINY)  # squares of a small gradient would underflow
    if algorithm == "svd":
        return canonical(_by_decomposition(matrix, rank))
    if algorithm == "power" and before is not None:
        return canonical(_within(matrix, _iterate(matrix, before), rank))
    count = min(rank + _OVERSAMPLING, *matrix.shape)
    if algorithm == "randomised" and _BLOCKS * count < min(matrix.shape):
        return canonical(_within(matrix, _krylov(matrix, _gaussian(matrix, count, seed)), rank))
    # the Gram matrix halves the digits of the small singular values; an iteration restores them
    return canonical(_within(matrix, _iterate(matrix, _by_gram(matrix, count)), rank))


def canonical(basis: Tensor) -> Tensor:
    """Return the basis with the largest entry of each column positive."""
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return basis * torch.where(largest < 0, -1.0, 1.0)


def _by_decomposition(matrix: Tensor, rank: int) -> Tensor:
    """Return the basis by singular value decomposition; wide matrices are transposed first, as LAPACK is faster
    then."""
    if matrix.shape[0] < matrix.shape[1]:
        return torch.linalg.svd(matrix.T, full_matrices=False)[2][:rank].T
    return torch.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def _by_gram(matrix: Tensor, count: int) -> Tensor:
    """Return (a, count) vectors from the smaller of the two Gram matrices."""
    rows, columns = matrix.shape
    if rows <= columns:
        return _leading_eigenvectors(matrix @ matrix.T, count)
    return matrix @ _leading_eigenvectors(matrix.T @ matrix, count)


def _leading_eigenvectors(gram: Tensor, count: int) -> Tensor:
    """Return the eigenvectors with the largest eigenvalues, in descending order."""
    return torch.linalg.eigh(gram)[1].flip(1)[:, :count]


def _iterate(matrix: Tensor, basis: Tensor) -> Tensor:
    """Return the orthonormal basis that one subspace iteration makes of `basis`."""
    return torch.linalg.qr(matrix @ (matrix.T @ basis))[0]


def _krylov(matrix: Tensor, start: Tensor) -> Tensor:
    """Return a basis of the span of all iterates rather than the last one, which captures far more of a slowly falling
    spectrum."""
    blocks = [_iterate(matrix, start)]
    for _ in range(_BLOCKS - 1):
        blocks.append(_iterate(matrix, blocks[-1]))
    return torch.linalg.qr(torch.cat(blocks, dim=1))[0]


def _within(matrix: Tensor, basis: Tensor, rank: int) -> Tensor:
    """Return the best `rank` directions within an orthonormal basis."""
    seen = torch.linalg.qr(matrix.T @ basis, mode="r")[1].T  # with the left singular vectors of basis^T matrix
    return basis @ torch.linalg.svd(seen, full_matrices=False)[0][:, :rank]


def _gaussian(matrix: Tensor, count: int, seed: int) -> Tensor:
    """Return (a, count) normal random numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(matrix.shape[0], count, generator=generator).to(matrix.device)


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
    previous step whose gradient was not zero."""
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
    return part / too_much, torch.where(norm > 0, norm / too_much, before)  # from zero it could not grow again
