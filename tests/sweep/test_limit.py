"""`hydra.sweeper.max_failures`: a sweep of which everything fails ends before its end, and goes on once it can."""

import json
from pathlib import Path

import pytest

from command import SMOKE, call, command, results
from peft_vision.core.config import ConfigError
from peft_vision.task import session

SEEDS = ("-m", *SMOKE, "optimizer=sgd", "seed=0,1,2,3")
TUNE = ("-m", *SMOKE, "optimizer=sgd", "hydra/sweeper=tune", "optimizer.lr=0.1,0.2,0.3", "hydra.sweeper.seeds=[7]")
SEARCH = (
    "-m",
    *SMOKE,
    "optimizer=sgd",
    "hydra/sweeper=optuna",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.pruner=none",
)
SEARCH = (*SEARCH, "optimizer.lr=interval(0.1,0.5)")
AGAIN = "task.retry=true"


def refuse(patch: pytest.MonkeyPatch) -> list[int]:
    """Every training ends in an error of the config; counts them."""
    begun: list[int] = []

    def refused(*_, **__):
        begun.append(1)
        raise ConfigError("trainer: nothing here can be trained")

    patch.setattr(session, "fit_phases", refused)
    return begun


def stages(folder: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["config"]["data"]["stage"] for path in results(folder))


def test_a_sweep_stops_at_the_failure_that_is_one_too_many_and_goes_on_later(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        begun = refuse(patch)
        outcome = call(*SEEDS, "hydra.sweeper.max_failures=2", cwd=tmp_path)
    assert (outcome.code, len(begun)) == (1, 2)
    *_, account, first, second, _, last = outcome.err.splitlines()
    assert account == "peft-vision: 2 of the sweep's 4 points failed"
    assert (first, second) == tuple(f"  seed={seed}: trainer: nothing here can be trained" for seed in (0, 1))
    assert last == (
        "hydra.sweeper.max_failures=2 stopped the sweep: 2 points were not started; the same command goes on with them"
    )
    assert call(*SEEDS, "hydra.sweeper.max_failures=2", AGAIN, cwd=tmp_path).code == 0
    assert len(results(tmp_path)) == 4


def test_without_a_limit_everything_is_tried(tmp_path, monkeypatch):
    begun = refuse(monkeypatch)
    outcome = call(*SEEDS, cwd=tmp_path)
    assert (outcome.code, len(begun)) == (1, 4)
    assert "max_failures" not in outcome.err


def test_what_failed_before_is_no_failure_of_this_command(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch)
        assert call(*SEEDS, "hydra.sweeper.max_failures=1", cwd=tmp_path).code == 1
    outcome = call(*SEEDS, "hydra.sweeper.max_failures=1", AGAIN, cwd=tmp_path)
    assert (outcome.code, len(results(tmp_path))) == (0, 4)


def test_runs_that_are_at_work_end_by_themselves(tmp_path):
    """Two at a time, whose loss leaves the numbers; the first failure ends neither the other nor its reason."""
    pool = ("hydra/launcher=pool", "hydra.launcher.jobs=2", "hydra.sweeper.max_failures=1", "optimizer.lr=1e30")
    outcome = command(*SEEDS, *pool, "tracker=none", cwd=tmp_path)
    assert outcome.code == 1
    failed = [json.loads(path.read_text())["error"] for path in tmp_path.rglob("failed.json")]
    assert len(failed) == 2
    assert all("the training loss became" in error for error in failed)
    assert "max_failures=1 stopped the sweep: 2 points were not started" in outcome.err


def test_a_tuning_that_was_stopped_chooses_and_tests_nothing(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        begun = refuse(patch)
        outcome = call(*TUNE, "hydra.sweeper.max_failures=1", cwd=tmp_path)
    assert (outcome.code, len(begun), results(tmp_path)) == (1, 1, [])
    assert "max_failures=1 stopped the sweep: 2 points were not started" in outcome.err
    assert "nothing is chosen before all settings were tried" in outcome.out
    assert call(*TUNE, "hydra.sweeper.max_failures=1", AGAIN, cwd=tmp_path).code == 0
    assert stages(tmp_path) == ["final", "tune", "tune", "tune"]


def test_a_search_that_was_stopped_goes_on_with_the_trials_that_are_left(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        begun = refuse(patch)
        outcome = call(*SEARCH, "hydra.sweeper.max_failures=1", cwd=tmp_path)
    assert (outcome.code, len(begun)) == (1, 1)
    assert "max_failures=1 stopped the sweep: 3 points were not started" in outcome.err
    again = call(*SEARCH, "hydra.sweeper.max_failures=1", cwd=tmp_path)
    assert "4 trials, 3 whole, 1 failed" in again.out
    assert len(results(tmp_path)) == 3


def test_a_batch_of_a_search_leaves_what_was_not_started_to_be_taken_up(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch)
        call(*SEARCH, "hydra.sweeper.batch=2", "hydra.sweeper.max_failures=1", cwd=tmp_path)
    again = call(*SEARCH, "hydra.sweeper.batch=2", cwd=tmp_path)
    assert "4 trials, 3 whole, 1 failed" in again.out


@pytest.mark.parametrize("wrong", ["0", "-1", "true", "1.5", "some"])
@pytest.mark.parametrize("sweeper", ["grids", "tune", "optuna"])
def test_anything_but_a_number_of_failures_is_refused(sweeper, wrong, tmp_path):
    outcome = call("-m", *SMOKE, f"hydra/sweeper={sweeper}", f"hydra.sweeper.max_failures={wrong}", cwd=tmp_path)
    assert outcome.error.startswith("hydra.sweeper.max_failures: got ")
    assert outcome.error.endswith(", should be a whole number from 1 on, or null")
