"""A study, as several searches share it."""

from contextlib import ExitStack

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from peft_vision.core.config import ConfigError
from peft_vision.sweep.search.space import SearchOptions, Space
from peft_vision.sweep.search.study import Study, at_work

SPACE = Space.of(OverridesParser.create().parse_overrides(["lr=tag(log,interval(1e-5,1e-1))", "rank=2,4,8"]))


@pytest.fixture
def searches(tmp_path):
    """`searches()` is one more process at work on the study; `searches.end(study)` is its end, however it came."""

    class Searches:
        def __init__(self) -> None:
            self.living = {}

        def __call__(self, n_trials: int = 5, sampler: str = "random") -> Study:
            life = ExitStack()
            mark = life.enter_context(at_work(tmp_path))
            options = SearchOptions(
                n_trials=n_trials,
                batch=None,
                study=None,
                sampler=sampler,
                sampler_seed=0,
                pruner="none",
                startup_trials=0,
                warmup_epochs=0,
            )
            study = Study(folder=tmp_path, name="study", space=SPACE, options=options, mark=mark)
            self.living[mark] = life
            return study

        def end(self, study: Study) -> None:
            self.living.pop(study.mark).close()

    searches = Searches()
    yield searches
    for life in searches.living.values():
        life.close()


def numbers(trials) -> list[int]:
    return [trial.number for trial in trials]


def test_searches_share_the_trials_and_draw_none_beyond_their_total(searches):
    first, second = searches(), searches()
    assert numbers(first.draw(2)) == [0, 1]
    assert numbers(second.draw(2)) == [2, 3]
    assert numbers(first.draw(2)) == [4]
    assert second.draw(2) == []
    assert len({str(trial.params) for trial in first.trials()}) == 5


def test_what_a_search_that_ended_left_undone_is_drawn_again_as_it_was(searches):
    first, second = searches(), searches()
    (left,) = first.draw(1)
    second.draw(1)
    searches.end(first)
    third = searches()
    again, new = third.draw(2)
    assert (again.number, again.params) == (left.number, left.params)
    assert new.number == 2
    assert len(third.trials()) == 3


def test_its_own_and_a_living_searchs_trials_are_not_drawn_again(searches):
    first, second = searches(n_trials=2), searches(n_trials=2)
    first.draw(2)
    assert (first.draw(2), second.draw(2)) == ([], [])


def test_a_failure_counts_and_is_never_a_value(searches):
    study = searches(n_trials=3)
    for trial, value in zip(study.draw(3), (None, float("nan"), 0.5), strict=True):
        study.tell(trial.number, value=value, pruned=False)
    assert [trial.state for trial in study.trials()] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert study.draw(1) == []
    assert numbers(searches(n_trials=4).draw(5)) == [3]


def test_a_trial_that_was_told_by_another_search_is_left_as_it_is(searches):
    study = searches()
    (trial,) = study.draw(1)
    study.tell(trial.number, value=0.5, pruned=False)
    study.tell(trial.number, value=0.1, pruned=True)
    assert [(trial.state, trial.value) for trial in study.trials()] == [(TrialState.COMPLETE, 0.5)]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_that_starts_again_draws_new_values(sampler, searches):
    seen = set()
    for _ in range(3):
        study = searches(n_trials=9, sampler=sampler)
        for trial in study.draw(3):
            study.tell(trial.number, value=0.5, pruned=False)
            seen.add(str(trial.params))
        searches.end(study)
    assert len(seen) == 9


def test_a_line_that_a_killed_search_left_unfinished_is_cut_off(searches):
    study = searches()
    study.draw(2)
    with study.journal.open("ab") as file:
        file.write(b'{"op_code": 4, "work')
    assert len(study.trials()) == 2
    assert numbers(study.draw(1)) == [2]
    assert len(study.trials()) == 3


def test_a_trial_whose_values_were_not_all_drawn_counts_as_none(searches):
    study = searches(n_trials=1)
    study._load().ask()  # killed before any value was drawn
    (trial,) = study.draw(1)
    assert (trial.number, set(trial.params)) == (1, {"lr", "rank"})
    assert numbers(study.trials()) == [1]


def test_a_name_is_for_one_space_and_config(searches):
    study = searches()
    study.check({"space": 1})
    study.check({"space": 1})
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.study: study searches another space"):
        study.check({"space": 2})
