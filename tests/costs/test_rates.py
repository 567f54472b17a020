"""What is measured for a plan, on a clock by which everything takes sixteen seconds."""

import pytest

from composed import composed
from peft_vision.costs import rates
from peft_vision.costs.walk import Act
from timed import timed


@pytest.fixture
def measured(monkeypatch):
    def measure(*words: str, acts: set[Act]) -> rates.Rates:
        monkeypatch.setattr(rates, "medians", lambda contenders, _: dict.fromkeys(contenders, 16.0))
        experiment = composed("experiment=smoke", "trainer.batch_size=8", *words)
        return rates.measure(experiment, acts, timed(experiment, warmup=0, repeats=1, steps=1))

    return measure


def test_a_solvers_epochs_are_measured_together_and_anything_else_once(measured):
    solve, score = Act("solve", 0, "table"), Act("score", 0, "observed")
    found = measured("method=linear", "optimizer=grid", acts={solve, score})
    assert found.lines[solve].seconds(images=8, calls=1) == pytest.approx(1.0)
    assert found.lines[score].seconds(images=8, calls=1) == pytest.approx(16.0)
    assert found.forward == 2.0  # of one of the batch


def test_a_solver_that_takes_as_long_as_the_data_make_it_has_no_rate(measured):
    solve, observe = Act("solve", 0, "table"), Act("observe", 0, "images")
    assert set(measured("method=linear", "optimizer=lbfgs", acts={solve, observe}).lines) == {observe}


def test_each_phase_has_rates_of_its_own(measured):
    acts = {Act("step", 0, "observed"), Act("step", 1, "images")}
    assert set(measured("method=lp_ft", acts=acts).lines) == acts
