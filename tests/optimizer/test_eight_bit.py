"""Moments in 8 bit: what bitsandbytes' own optimizer computes, and every matrix moves."""

import pytest
import torch

from low_rank_steps import ADAM, gradient, optimizer, parameters, run
from peft_vision.optimizer.restore import footprint
from peft_vision.optimizer.rule import new_moments, read_moments, stored_moments

pytest.importorskip("bitsandbytes")


def test_what_is_not_projected_moves_as_with_bitsandbytes():
    import bitsandbytes

    shapes = [(80, 60), (60, 90), (5,)]  # the last stays in fp32
    published = bitsandbytes.optim.AdamW8bit(parameters(shapes), lr=0.01, weight_decay=0.0, betas=ADAM.betas, eps=1e-8)
    expected = run(published, 6)
    ours = run(optimizer([], parameters(shapes), bits=8, weight_decay=0.0), 6)
    for first, second in zip(ours, expected, strict=True):
        # a value at the border of two of the 256 may be rounded to either
        close = (first - second).abs() < 1e-5
        assert float(close.float().mean()) > 0.999
        torch.testing.assert_close(first, second, rtol=0, atol=5e-3)


@pytest.mark.parametrize("shape", [(100, 80), (80, 100), (12, 8)])
def test_every_matrix_moves_as_it_does_in_fp32(shape):
    """galore-torch 1.0 with a new bitsandbytes leaves those with less than 4096 projected entries where they are."""
    (before,) = (p.detach().clone() for p in parameters([shape]))
    whole, short = (run(optimizer(parameters([shape]), bits=bits, rank=6), 8)[0] for bits in (32, 8))
    moved, error = (whole - before).norm(), (whole - short).norm()
    assert float((short - before).abs().amin(dim=0).max()) > 0
    assert error < 0.1 * moved


@pytest.mark.parametrize(("shape", "dtype"), [((64, 64), torch.uint8), ((63, 65), torch.float32)])
def test_small_tensors_stay_in_fp32(shape, dtype):
    kept = new_moments(("exp_avg",), torch.zeros(shape), bits=8)
    assert kept["exp_avg"].dtype == dtype


@pytest.mark.parametrize(("name", "signed"), [("exp_avg", True), ("exp_avg_sq", False)])
def test_rounding_keeps_the_order_of_magnitude_of_every_entry(name, signed):
    torch.manual_seed(0)
    moment = torch.randn(80, 80) * 10 ** torch.empty(80, 80).uniform_(-3, 0)
    moment = moment if signed else moment.abs()
    (again,) = read_moments(stored_moments({name: moment}, bits=8), (name,))
    large = moment.abs() > 1e-2 * moment.abs().max()
    torch.testing.assert_close(again[large], moment[large], rtol=0.1, atol=0)


def test_a_state_in_8_bit_is_a_quarter_of_one_in_32():
    sizes = []
    for bits in (32, 8):
        stepper = optimizer([], parameters([(256, 256)]), bits=bits)
        run(stepper, 1)
        sizes.append(footprint(stepper)["state_bytes"])
    assert sizes[0] == 2 * 4 * 256 * 256
    assert sizes[1] == 2 * (256 * 256 + 4 * 256)  # a scale for 256 entries


def test_turning_rounds_once_more_only():
    stepper = optimizer(parameters([(100, 80)]), bits=8, rank=60)
    run(stepper, 3)
    (matrix,) = stepper.param_groups[0]["params"]
    state = stepper.state[matrix]
    before, basis = read_moments(state, ADAM.moments), state["right"]
    matrix.grad = gradient(matrix, 99, 0)
    after = stepper._following.subspaces.of(matrix.grad, before=None, seed=0)
    turned = ADAM.turned(before, after.turn_from(type(after)(None, basis)), 3)
    stored = read_moments(stored_moments(dict(zip(ADAM.moments, turned, strict=True)), bits=8), ADAM.moments)
    for exact, rounded in zip(turned, stored, strict=True):
        assert float((exact - rounded).norm() / exact.norm()) < 0.02
