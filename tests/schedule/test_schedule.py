"""Learning-rate factors over a run."""

import math

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from peft_vision.schedule.schedules import Constant, Cosine, CosineByEpoch, CosineOfTimm


def test_warmup_rises_linearly_from_above_zero_to_one():
    factors = [Constant(warmup=0.5).factor(step, 8) for step in range(8)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_cosine_falls_from_one_to_nearly_zero():
    factors = [Cosine(warmup=0.0).factor(step, 100) for step in range(100)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert factors[50] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-3


def test_the_whole_run_is_covered_whatever_its_length():
    for num_steps in (1, 2, 3, 7, 100):
        for schedule in (Cosine(warmup=0.1), Constant(warmup=0.9)):
            factors = [schedule.factor(step, num_steps) for step in range(num_steps)]
            assert all(0 < factor <= 1 for factor in factors)


def test_warmup_and_cosine_meet_at_the_peak():
    schedule = Cosine(warmup=0.1)
    assert schedule.factor(10, 100) == 1
    assert schedule.factor(9, 100) == pytest.approx(10 / 11)
    assert schedule.factor(55, 100) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_by_epoch_is_what_the_codes_of_vpt_and_vqt_do():
    """10 warm-up epochs of 100: none in the first, 1 in the eleventh, 3e-4 in the last."""
    schedule = CosineByEpoch(warmup=0.1, epochs=100)
    factors = [schedule.factor(step, 1300) for step in range(1300)]
    assert [factors[13 * epoch] for epoch in (0, 1, 9, 10, 55)] == pytest.approx([0, 0.1, 0.9, 1, 0.5])
    assert factors[-1] == pytest.approx((1 + math.cos(math.pi * 89 / 90)) / 2)
    assert all(factors[13 * epoch : 13 * epoch + 13] == [factors[13 * epoch]] * 13 for epoch in range(100))


def test_timms_cosine_is_that_of_its_scheduler_stepped_when_an_epoch_is_over():
    """As NOAH (supernet_train_prompt.py), FacT (fact_tk.py), Convpass and RepAdapter (train.py) call it."""
    rate = 1e-3
    stepper = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    timms = CosineLRScheduler(stepper, t_initial=100, warmup_t=10, lr_min=1e-5, warmup_lr_init=1e-6)
    schedule = CosineOfTimm(warmup=0.1, epochs=100, start=1e-6 / rate, floor=1e-5 / rate)
    for epoch in range(100):
        rates = {rate * schedule.factor(16 * epoch + step, 1600) for step in range(16)}
        assert list(rates) == pytest.approx([stepper.param_groups[0]["lr"]], rel=1e-9)
        timms.step(epoch)
