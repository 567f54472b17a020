"""What is timed, and how: on a clock that moves when a device has done its work."""

from dataclasses import replace

import pytest
import torch

from composed import composed
from peft_vision.backbone.load import Backbone
from peft_vision.costs import measure
from peft_vision.costs.measure import forward_pass, measure_step, medians
from peft_vision.costs.setting import BenchSetting
from peft_vision.training.trainer import Trainer
from timed import timed


@pytest.fixture
def setting() -> BenchSetting:
    experiment = composed("experiment=smoke", "trainer.batch_size=4")
    assert isinstance(experiment.backbone, Backbone)
    return timed(experiment, warmup=1, repeats=3, steps=2)


class Device:
    """Takes work at once, and does it when somebody waits for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pending = 0.0

    def wait(self) -> None:
        self.now += self.pending
        self.pending = 0.0

    def work(self, seconds: float) -> None:
        self.pending += seconds


@pytest.fixture
def device(monkeypatch) -> Device:
    device = Device()
    monkeypatch.setattr(measure, "perf_counter", lambda: device.now)
    monkeypatch.setattr(torch.cpu, "synchronize", device.wait)
    return device


def test_seconds_are_of_one_step_and_end_when_the_device_has_done_it(device, setting):
    found = medians({"short": lambda: device.work(1.0), "long": lambda: device.work(3.0)}, setting)
    assert found == {"short": 1.0, "long": 3.0}


def test_work_that_was_asked_for_before_is_not_counted(device, setting):
    device.work(100.0)
    assert medians({"only": lambda: device.work(1.0)}, replace(setting, warmup=0, repeats=1)) == {"only": 1.0}


def test_contenders_take_turns_and_the_first_rounds_do_not_count(device, setting):
    calls: list[str] = []

    def act(name: str) -> None:
        calls.append(name)
        device.work(50.0 if len(calls) <= 4 else 1.0)  # the warm-up: one round of two contenders, two steps each

    assert medians({"a": lambda: act("a"), "b": lambda: act("b")}, setting) == {"a": 1.0, "b": 1.0}
    assert calls == ["a", "a", "b", "b"] * 4


def test_the_median_stands_for_the_rounds(device, setting):
    seconds = iter([9.0, 1.0, 2.0, 60.0])
    assert medians({"only": lambda: device.work(next(seconds))}, replace(setting, steps=1)) == {"only": 2.0}


def test_the_forward_pass_keeps_no_gradients_and_is_of_a_whole_batch(setting, monkeypatch):
    seen = []

    def compute(self, model, world):
        return lambda images: seen.append((torch.is_grad_enabled(), len(images), model.training))

    monkeypatch.setattr(Trainer, "compute", compute)
    forward_pass(setting)()
    assert seen == [(False, 4, False)]


@pytest.mark.parametrize(
    ("method", "timed", "phase"),
    [("linear", {"forward", "step", "stored_step"}, "train"), ("lp_ft", {"forward", "step"}, "train")],
)
def test_a_step_is_of_the_first_phase_that_is_the_methods_own(method, timed, phase, setting):
    config = composed("experiment=smoke", f"method={method}").config["method"]
    measured = measure_step(replace(setting, repeats=1, steps=1), config)
    assert (set(measured.seconds), measured.phase) == (timed, phase)
    assert measured.parameters["head"] == 128 * 3 + 3
    assert (measured.parameters["method"] > 0) == (method == "lp_ft")


def test_a_step_moves_what_trains_by_the_optimizers_rate(setting, monkeypatch):
    rates = []
    step = Trainer._step

    def noted(self, compute, stepper, batch, lr, **rest):
        rates.append((lr, batch.size))
        return step(self, compute, stepper, batch, lr, **rest)

    monkeypatch.setattr(Trainer, "_step", noted)
    measure_step(setting, composed("experiment=smoke", "method=bitfit").config["method"])
    assert set(rates) == {(setting.optimizer.lr, 4)}
