"""Sides, and the way into a subspace and back."""

import pytest
import torch

from peft_vision.optimizer.projection import Projection, Subspaces, cosine

WIDE, TALL, SQUARE = (4, 9), (9, 4), (6, 6)


def projection(shape: tuple[int, int], side: str, *, rank: int = 2, lapack_signs: bool = False) -> Projection:
    torch.manual_seed(0)
    spaces = Subspaces(rank, side, "svd", lapack_signs)
    return spaces.of(torch.randn(shape), before=None, seed=0)


@pytest.mark.parametrize("lapack_signs", [True, False])
@pytest.mark.parametrize(
    ("side", "shape", "low"),
    [
        ("std", TALL, (9, 2)),
        ("std", WIDE, (2, 9)),
        ("std", SQUARE, (6, 2)),
        ("reverse_std", TALL, (2, 4)),
        ("reverse_std", WIDE, (4, 2)),
        ("reverse_std", SQUARE, (2, 6)),
        ("left", TALL, (2, 4)),
        ("left", WIDE, (2, 9)),
        ("right", TALL, (9, 2)),
        ("right", WIDE, (4, 2)),
        ("full", TALL, (2, 2)),
    ],
)
def test_a_side_is_projected_and_what_was_in_the_subspace_comes_back(side, shape, low, lapack_signs):
    subspace = projection(shape, side, lapack_signs=lapack_signs)
    within = torch.zeros(shape)
    subspace.add_up(within, torch.randn(low), alpha=1.0)
    assert subspace.down(within).shape == low
    again = torch.ones(shape)
    subspace.add_up(again, subspace.down(within), alpha=-0.5)
    torch.testing.assert_close(again, 1 - 0.5 * within)


def test_both_ways_of_choosing_signs_find_one_subspace():
    lapack, ours = (projection(TALL, "full", lapack_signs=lapack_signs) for lapack_signs in (True, False))
    for first, second in zip(lapack, ours, strict=True):
        torch.testing.assert_close(first.abs(), second.abs())


@pytest.mark.parametrize(("side", "shape"), [("left", WIDE), ("right", TALL), ("full", SQUARE)])
def test_turning_is_going_up_and_down_again(side, shape):
    old, new = projection(shape, side), projection(shape, side, rank=3)
    low = torch.randn(old.down(torch.zeros(shape)).shape)
    whole = torch.zeros(shape)
    old.add_up(whole, low, alpha=1.0)
    torch.testing.assert_close(new.turn_from(old).down(low), new.down(whole))


def test_the_cosine_has_no_sign():
    basis = torch.eye(4)[:, :2]
    turned = torch.tensor([[-0.6, 0.8, 0, 0], [0, 0, 1, 0]]).T
    assert cosine(Projection(turned, None), Projection(basis, None)) == pytest.approx(0.6)
    assert cosine(Projection(basis, turned), Projection(basis, basis)) == pytest.approx(0.6)


@pytest.mark.parametrize("side", ["std", "full"])
def test_random_vectors_give_the_gradient_in_the_mean(side):
    """Those of both sides are drawn apart: of one draw they would favour some entries."""
    spaces = Subspaces(4, side, "random", lapack_signs=False)
    slope = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    mean = torch.zeros(6, 6)
    for seed in range(4000):
        subspace = spaces.of(slope, before=None, seed=seed)
        subspace.add_up(mean, subspace.down(slope), alpha=1 / 4000)
    assert (mean - slope).norm() < 0.1 * slope.norm()
