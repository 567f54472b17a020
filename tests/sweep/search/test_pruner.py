"""What a run tells its study, and what it is told."""

import optuna
import pytest

from peft_vision.core.config import ConfigError
from peft_vision.sweep.search.study import TrialPruner, open_journal
from peft_vision.task.train import Train


@pytest.fixture
def study(tmp_path) -> optuna.Study:
    """Of trials that came to 0.9 in each of four epochs, and one that has begun."""
    study = optuna.create_study(study_name="s", storage=open_journal(tmp_path / "s.log"), direction="maximize")
    for _ in range(2):
        trial = study.ask()
        for epoch in range(1, 5):
            trial.report(0.9, epoch)
        study.tell(trial, 0.9)
    study.ask()
    return study


@pytest.fixture
def pruner(study, tmp_path) -> TrialPruner:
    return TrialPruner(
        journal=str(tmp_path / "s.log"),
        study="s",
        trial=2,
        name="median",
        startup_trials=1,
        warmup_epochs=1,
        epochs=4,
    )


def told(study: optuna.Study) -> dict[int, float]:
    return study.get_trials()[2].intermediate_values


def test_a_trial_that_is_worse_than_the_median_is_given_up_after_its_warm_up(study, pruner):
    assert pruner(1, 0.2) is None
    assert pruner(2, 0.25) == "given up after epoch 2 of 4"
    assert told(study) == {1: 0.2, 2: 0.25}


def test_an_epoch_that_is_done_again_is_not_told_again(study, pruner):
    pruner(1, 0.95)
    pruner(2, 0.96)
    assert pruner(1, 0.1) is None
    assert pruner(2, 0.1) is None
    assert told(study) == {1: 0.95, 2: 0.96}
    assert pruner(3, 0.97) is None
    assert told(study)[3] == 0.97


def test_of_epochs_that_are_done_again_the_last_one_is_judged_again(pruner):
    pruner(2, 0.2)
    pruner(3, 0.2)
    assert pruner(2, 0.2) is None
    assert pruner(3, 0.2).startswith("given up after epoch 3")


def test_a_trial_that_another_search_took_for_dead_is_left_alone(study, pruner):
    study.tell(2, state=optuna.trial.TrialState.FAIL)
    assert pruner(3, 0.1) is None
    assert told(study) == {}


def test_a_run_takes_any_callable_and_nothing_else(pruner):
    assert Train(retry=None, wait=True, pruner=pruner).pruner is pruner
    assert Train(retry=None, wait=True, pruner=print).pruner is print
    for other in ("median", {"_target_": "pathlib.Path"}):
        with pytest.raises(ConfigError, match=r"^task\.pruner: "):
            Train(retry=None, wait=True, pruner=other)
