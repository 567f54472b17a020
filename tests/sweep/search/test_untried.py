"""No setting twice while another is left, whoever draws, in whatever batches."""

from collections import Counter

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from peft_vision.sweep.search.space import SearchOptions, Space
from peft_vision.sweep.search.study import Study, at_work

METHODS = ("method=linear,lora,vqt", "epochs=range(1,3)")


@pytest.fixture
def study(tmp_path):
    """`study(words)` is a search at work in a folder of its own, or in the one that is named."""
    marks = []

    def made(words, *, folder="a", n_trials=50, sampler="tpe", seed=0) -> Study:
        marks.append(at_work(tmp_path / folder))
        options = SearchOptions(
            n_trials=n_trials,
            batch=None,
            study=None,
            sampler=sampler,
            sampler_seed=seed,
            pruner="none",
            startup_trials=0,
            warmup_epochs=0,
        )
        space = Space.of(OverridesParser.create().parse_overrides(list(words)))
        mark = marks[-1].__enter__()
        return Study(folder=tmp_path / folder, name="study", space=space, options=options, mark=mark)

    yield made
    for mark in marks:
        mark.__exit__(None, None, None)


def carry_out(study: Study, *, batch: int) -> list[tuple[str, ...]]:
    """Until nothing is left to draw: the settings in their order, of which linear is best."""
    settings = []
    while drawn := study.draw(batch):
        assert len(drawn) <= batch
        for trial in drawn:
            settings.append(study.space.points(trial.params)[0])
            study.tell(trial.number, value=float(trial.params.get("method") == "linear"), pruned=False)
    return settings


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("batch", [1, 4])
def test_all_settings_are_tried_once_and_then_the_search_is_over(sampler, batch, study):
    search = study(METHODS, sampler=sampler)
    settings = carry_out(search, batch=batch)
    assert len(settings) == len(set(settings)) == search.total == search.space.size() == 6
    assert search.is_exhausted()
    assert carry_out(study(METHODS, sampler=sampler), batch=batch) == []


def test_fewer_trials_than_settings_are_all_different(study):
    search = study(METHODS, n_trials=5)
    assert len(set(carry_out(search, batch=2))) == 5
    assert not search.is_exhausted()
    assert len(set(carry_out(study(METHODS, n_trials=6), batch=2))) == 1


def test_searches_side_by_side_draw_nothing_twice(study):
    first, second = study(METHODS), study(METHODS)
    drawn = [*first.draw(2), *second.draw(2), *first.draw(2), *second.draw(2)]
    assert len({first.space.points(trial.params)[0] for trial in drawn}) == len(drawn) == 6


def test_the_seed_decides_the_order(study):
    orders = [
        carry_out(study(METHODS, folder=name, seed=seed), batch=3) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert orders[0] == orders[1] != orders[2]


def test_a_study_of_repeats_goes_on_with_what_is_left(study):
    search = study(("method=linear,lora,vqt",), n_trials=8)
    storage = search._load()
    for _ in range(6):  # as a version drew that repeated settings
        storage.enqueue_trial({"method": "lora"})
        storage.tell(storage.ask(dict(search.space.swept)), 0.5)
    assert sorted(carry_out(search, batch=1)) == [("method=linear",), ("method=vqt",)]


def test_one_value_beside_an_interval_is_never_exhausted_and_numbers_do_not_repeat(study):
    search = study(("method=linear,lora", "lr=interval(0.1,0.2)"), n_trials=30)
    settings = carry_out(search, batch=5)
    assert len(set(settings)) == 30
    assert search.total == 30
    assert not search.is_exhausted()
    assert set(Counter(method for method, _ in settings)) == {"method=linear", "method=lora"}


def test_numbers_that_round_to_what_was_tried_stop_no_search(study):
    assert len(carry_out(study(("lr=interval(0.1,0.1001)",), n_trials=4), batch=1)) == 4


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (("a=1,2,3", "b=range(0,10,5)"), 6),
        (("a=int(interval(1,64))",), 64),
        (("a=interval(0.5,0.5)", "b=1,2"), 2),
        (("a=1,2", "b=interval(0,1)"), float("inf")),
    ],
)
def test_a_space_knows_how_many_settings_it_has(words, size):
    assert Space.of(OverridesParser.create().parse_overrides(list(words))).size() == size
