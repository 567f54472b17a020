import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from peft_vision.core.config import ConfigError
from peft_vision.sweep.search.space import Space


def space(*words: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("sweep", "distribution"),
    [
        ("tag(log,interval(1e-5,1e-1))", FloatDistribution(1e-5, 0.1, log=True)),
        ("interval(0,0.5)", FloatDistribution(0, 0.5)),
        ("int(interval(1,5))", IntDistribution(1, 5)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("range(5,20)", IntDistribution(5, 19)),
        ("range(5,20,5)", IntDistribution(5, 15, step=5)),
        ("range(5,6)", CategoricalDistribution(("5",))),
        ("range(0.5,2,0.5)", CategoricalDistribution(("0.5", "1.0", "1.5"))),
        ("2,4,8", CategoricalDistribution(("2", "4", "8"))),
        ("choice(a,[1,2])", CategoricalDistribution(("a", "[1,2]"))),
        ("2,2,4", CategoricalDistribution(("2", "4"))),
    ],
)
def test_hydras_words_for_a_sweep_become_distributions(sweep, distribution):
    assert space(f"key={sweep}").swept == {"key": distribution}


def test_the_last_of_equal_keys_counts_with_a_plus_or_without():
    found = space("method.rank=2,4", "++method.rank=16", "+optimizer.extra=1", "optimizer.extra=3,5")
    assert found.fixed == ("++method.rank=16",)
    assert found.swept == {"+optimizer.extra": CategoricalDistribution(("3", "5"))}


def test_seeds_are_no_part_of_what_is_searched_but_runs_of_each_trial():
    found = space("method=lora", "optimizer.lr=interval(0.1,0.2)", "method.rank=4,8", "seed=0,1")
    assert found.points({"optimizer.lr": 0.15, "method.rank": "8"}) == [
        ("method=lora", "optimizer.lr=0.15", "method.rank=8", "seed=0"),
        ("method=lora", "optimizer.lr=0.15", "method.rank=8", "seed=1"),
    ]


@pytest.mark.parametrize(
    ("value", "written"), [(0.00123456789, "0.001235"), (1.00004e-5, "1e-05"), (0.19999, "0.2"), (0.10001, "0.1")]
)
def test_numbers_are_written_with_four_digits(value, written):
    assert space("lr=tag(log,interval(1e-5,0.2))").points({"lr": value}) == [(f"lr={written}",)]


@pytest.mark.parametrize("bounds", [(0.12344, 0.2), (0.1, 0.12346)])
def test_rounding_never_leaves_the_interval(bounds):
    found = space(f"lr=interval({bounds[0]},{bounds[1]})")
    written = [float(found.points({"lr": bound})[0][0].removeprefix("lr=")) for bound in bounds]
    assert bounds[0] <= written[0] <= written[1] <= bounds[1]


def test_examples_have_every_choice_and_both_ends():
    assert space("method=lora", "lr=interval(0.1,0.2)", "rank=2,4,8", "seed=0,1").examples() == [
        ("method=lora", "lr=0.1", "rank=2", "seed=0"),
        ("method=lora", "lr=0.2", "rank=2", "seed=0"),
        ("method=lora", "lr=0.1", "rank=4", "seed=0"),
        ("method=lora", "lr=0.1", "rank=8", "seed=0"),
    ]


def test_of_equal_keys_the_last_one_counts():
    found = space("lr=1,2", "rank=1,2", "lr=3")
    assert (found.fixed, list(found.swept)) == (("lr=3",), ["rank"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("method=lora", "seed=0,1"), "nothing to search; write what may vary"),
        (("lr=tag(log,interval(0,1))",), "lr: "),
        (("lr=interval(2,1)",), "lr: "),
    ],
)
def test_what_cannot_be_searched_is_said(words, complaint):
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        space(*words)
