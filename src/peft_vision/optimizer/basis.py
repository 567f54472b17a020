"""This module computes an orthonormal basis of the subspace that holds most of a gradient: its leading left singular
vectors.

    svd          the singular value decomposition itself
    eigh         eigenvectors of the Gram matrix: the same subspace in a fraction of the time
    randomised   block Krylov iteration from random vectors: the same again (Musco & Musco, 2015, arXiv:1504.05477)
    power        subspace iteration from the previous basis (Robert et al., 2025, arXiv:2410.16103)
    random       neither a basis nor a projection: Gaussian vectors that keep lengths in the mean (Zhu et al., 2024,
                 arXiv:2412.05270)

Singular vectors have an arbitrary sign; here the largest entry of each is positive, whatever LAPACK returned.
"""

from typing import Literal

import torch
from torch import Tensor

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
