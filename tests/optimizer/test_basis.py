"""Every algorithm finds the subspace that the singular value decomposition does."""

import pytest
import torch
from torch import Tensor

from peft_vision.optimizer.projection import canonical, leading

SAME = ["svd", "eigh", "randomised", "power"]


def decaying(rows: int, columns: int, *, by: float = 0.8, seed: int = 0) -> Tensor:
    """Random, with singular values 1, by, by^2, ..."""
    torch.manual_seed(seed)
    left, _, right = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    return left * by ** torch.arange(min(rows, columns)) @ right


def found(matrix: Tensor, rank: int, algorithm: str, *, before: Tensor | None = None, seed: int = 0) -> Tensor:
    return leading(matrix, rank, algorithm=algorithm, before=before, seed=seed)


def overlap(first: Tensor, second: Tensor) -> float:
    """1 for two bases of one subspace, rank / d for random ones."""
    return float((first.T @ second).square().sum() / first.shape[1])


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (30, 30), (30, 3)])
@pytest.mark.parametrize("algorithm", SAME)
def test_the_subspace_is_that_of_the_leading_singular_vectors(algorithm, shape):
    matrix = decaying(*shape)
    rank = min(6, *shape)
    basis = found(matrix, rank, algorithm)
    assert basis.shape == (shape[0], rank)
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank), atol=1e-5, rtol=0)
    assert overlap(basis, torch.linalg.svd(matrix)[0][:, :rank]) > 0.999


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
@pytest.mark.parametrize("algorithm", ["svd", "eigh", "randomised"])
def test_a_spectrum_that_falls_slowly_has_its_subspace_too(algorithm, shape):
    matrix = decaying(*shape, by=0.97)
    assert overlap(found(matrix, 32, algorithm), torch.linalg.svd(matrix)[0][:, :32]) > 0.999


@pytest.mark.parametrize("algorithm", SAME)
def test_a_gradient_of_fewer_dimensions_than_the_rank_is_held_whole(algorithm):
    matrix = decaying(300, 5) @ decaying(5, 200)
    basis = found(matrix, 32, algorithm)
    torch.testing.assert_close(basis.T @ basis, torch.eye(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis @ (basis.T @ matrix), matrix, atol=1e-5, rtol=0)


@pytest.mark.parametrize("algorithm", SAME)
def test_the_most_important_vector_comes_first(algorithm):
    matrix = decaying(40, 30)
    basis = found(matrix, 5, algorithm)
    strengths = (basis.T @ matrix).norm(dim=1)
    torch.testing.assert_close(strengths, 0.8 ** torch.arange(5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("algorithm", SAME)
def test_signs_do_not_depend_on_those_that_lapack_chose(algorithm):
    matrix = decaying(12, 10)
    basis = found(matrix, 4, algorithm)
    assert (basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)) > 0).all()
    torch.testing.assert_close(canonical(basis * torch.tensor([-1.0, 1.0, -1.0, 1.0])), basis)


@pytest.mark.parametrize("algorithm", SAME)
def test_gradients_of_any_size_have_their_subspace(algorithm):
    matrix = decaying(20, 10)
    tiny = found(matrix * 1e-15, 4, algorithm)
    assert overlap(tiny, found(matrix, 4, algorithm)) > 0.999


def test_power_iteration_goes_on_from_the_basis_before():
    matrix, strange = decaying(40, 30), torch.linalg.qr(torch.randn(40, 5))[0]
    exact = found(matrix, 5, "svd")
    overlaps = [overlap(strange, exact)]
    for _ in range(6):
        strange = found(matrix, 5, "power", before=strange)
        overlaps.append(overlap(strange, exact))
    assert overlaps == sorted(overlaps)
    assert overlaps[0] < 0.5 < 0.9 < overlaps[-1]


def test_random_vectors_depend_on_the_seed_alone_and_keep_lengths_in_the_mean():
    matrix = torch.zeros(400, 3)
    basis = found(matrix, 100, "random", seed=7)
    assert torch.equal(basis, found(torch.ones(400, 3), 100, "random", seed=7))
    assert not torch.equal(basis, found(matrix, 100, "random", seed=8))
    lengths = (basis.T @ torch.eye(400)).norm(dim=0)
    assert abs(float(lengths.square().mean()) - 1) < 0.02
