"""Rotary positions in one pass over memory are timm's, forward and backward."""

import pytest
import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from peft_vision.backbone.families.rotary import positioned

SHAPES = {
    "a class token and registers": {"start": 5, "count": 11},
    "no token before the patches": {"start": 0, "count": 6},
    "prompts that travel behind the patches": {"start": 1, "count": 9},
    "leading tokens alone": {"start": 3, "count": 2},
    "some of the patches": {"start": 2, "count": 5},
}
PATCHES = 6


def by_timm(heads: Tensor, table: Tensor, *added: Tensor, start: int, half: bool) -> Tensor:
    patches = heads[:, :, start : start + PATCHES]
    turned = apply_rot_embed_cat(patches, table[..., : patches.shape[2], :], half=half) if patches.numel() else patches
    behind = [part.expand(len(heads), -1, -1, -1) for part in added]
    return torch.cat([heads[:, :, :start], turned, heads[:, :, start + PATCHES :], *behind], dim=2)


def drawn(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(True)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("of_each_head", [True, False])
def test_values_and_gradients_are_timms(shape, half, of_each_head):
    heads = drawn(3, 2, shape["count"], 8, seed=1)
    # sines and cosines of any numbers: the channels of a pair need not have the same
    table = drawn(*([2] if of_each_head else []), PATCHES, 16, seed=2).detach()
    added = (drawn(1, 2, 4, 8, seed=3), drawn(3, 2, 2, 8, seed=4))
    for more in ((), added):
        found = positioned(heads, table, *more, start=shape["start"], half=half)
        expected = by_timm(heads, table, *more, start=shape["start"], half=half)
        torch.testing.assert_close(found, expected)
        weights = drawn(*expected.shape, seed=5).detach()
        for mine, timms in zip(
            torch.autograd.grad((found * weights).sum(), (heads, *more)),
            torch.autograd.grad((expected * weights).sum(), (heads, *more)),
            strict=True,
        ):
            torch.testing.assert_close(mine, timms)


def test_nothing_is_computed_for_what_needs_no_gradient():
    heads, added, table = drawn(2, 2, 7, 8, seed=1).detach(), drawn(1, 2, 3, 8, seed=2), drawn(6, 16, seed=3).detach()
    turned = positioned(heads, table, added, start=1, half=True)
    assert type(turned.grad_fn).__name__ == "TurnedBackward"
    assert turned.grad_fn.next_functions[0][0] is None  # of the heads
    turned.sum().backward()
    assert torch.equal(added.grad, torch.full_like(added, 2.0))  # one for each image


def test_a_table_that_trains_gets_timms_gradient():
    heads, table = drawn(2, 2, 9, 8, seed=1), drawn(2, 6, 16, seed=3)  # two travelling prompts
    found = torch.autograd.grad(positioned(heads, table, start=1, half=False).square().sum(), table)
    expected = torch.autograd.grad(by_timm(heads, table, start=1, half=False).square().sum(), table)
    torch.testing.assert_close(found, expected)


def test_half_precision_is_timms_whose_sines_are_not_rounded():
    heads, table = drawn(2, 2, 7, 8, seed=1).detach().bfloat16(), drawn(6, 16, seed=3).detach().float()
    assert torch.equal(positioned(heads, table, start=1, half=True), by_timm(heads, table, start=1, half=True))
