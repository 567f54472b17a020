"""Intervals and ties are those of the textbook, and of SciPy."""

import random

import pytest
from scipy import stats

from peft_vision.report.significance import Score, holm, paired_p, verdicts


def values(seed: int, n: int, mean: float = 0.7) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 0.02) for _ in range(n)]


def by_seed(found: list[float], data: str = "digits") -> dict[tuple[str, int], float]:
    return {(data, seed): value for seed, value in enumerate(found)}


def judged(samples, shares=None):
    means = {name: sum(its.values()) / len(its) for name, its in samples.items()}
    return verdicts(samples, means, shares or {"digits": 1.0})


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_students(n):
    found = values(n, n)
    score = Score.of(found)
    expected = stats.t.interval(0.95, n - 1, loc=score.mean, scale=stats.sem(found))
    assert (score.low, score.high) == pytest.approx((max(0, expected[0]), min(1, expected[1])))
    assert score.std == pytest.approx(stats.tstd(found))


def test_one_seed_has_neither_spread_nor_interval():
    assert Score.of([0.5]) == Score(0.5, None, None, None, 1)


def test_an_interval_of_accuracies_ends_at_zero_and_one():
    assert (Score.of([0.01, 0.99]).low, Score.of([0.01, 0.99]).high) == (0, 1)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_test_is_the_paired_t_test(n):
    first, second = values(1, n), values(2, n)
    p = paired_p([a - b for a, b in zip(first, second, strict=True)])
    assert p == pytest.approx(stats.ttest_rel(first, second).pvalue)


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_one_pair_and_equal_differences_say_nothing(differences):
    assert paired_p(differences) is None


def test_holms_correction_is_the_textbooks():
    """Sorted, 0.01 * 4, 0.02 * 3 and so on; none less than the one before, none above one."""
    corrected = holm({"d": 0.9, "a": 0.01, "c": 0.025, "b": 0.02})
    assert corrected == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_a_method_that_differs_by_chance_is_a_tie_and_one_that_always_loses_is_worse():
    best = [0.80, 0.82, 0.81, 0.83]
    samples = {
        "best": by_seed(best),
        "close": by_seed([0.82, 0.80, 0.815, 0.815]),
        "worse": by_seed([value - 0.1 - number / 1000 for number, value in enumerate(best)]),
    }
    found = judged(samples)
    assert {name: its.kind for name, its in found.items()} == {"best": "best", "close": "tie", "worse": "worse"}
    raw = {name: stats.ttest_rel(best, list(samples[name].values())).pvalue for name in ("close", "worse")}
    assert found["worse"].p == pytest.approx(2 * raw["worse"])
    assert found["close"].p == pytest.approx(max(raw["close"], 2 * raw["worse"]))


def test_only_seeds_that_both_have_are_compared():
    found = judged({"best": by_seed([0.9, 0.92, 0.94]), "other": by_seed([0.5, 0.6])})
    assert found["other"].pairs == 2


@pytest.mark.parametrize("other", [[0.5], [0.8, 0.82, 0.84]])
def test_what_cannot_be_tested_is_no_tie(other):
    """One seed, and differences that are all the same."""
    found = judged({"best": by_seed([0.9, 0.92, 0.94]), "other": by_seed(other)})
    assert (found["other"].kind, found["other"].p) == ("untestable", None)


def test_methods_of_one_mean_are_both_best():
    found = judged({"a": by_seed([0.1, 0.2, 0.6]), "b": by_seed([0.6, 0.2, 0.1])})
    assert {its.kind for its in found.values()} == {"best"}


def test_a_mean_is_compared_over_data_sets_and_seeds():
    draw = random.Random(3)
    pairs = [(data, seed) for data in ("a", "b") for seed in range(3)]
    first = {pair: draw.gauss(0.8, 0.02) for pair in pairs}
    second = {pair: value - draw.gauss(0.01, 0.01) for pair, value in first.items()}
    found = verdicts(
        {"first": first, "second": second},
        {name: sum(its.values()) for name, its in (("first", first), ("second", second))},
        {"a": 0.5, "b": 0.5},
    )
    assert found["second"].pairs == 6
    assert found["second"].p == pytest.approx(stats.ttest_rel([*first.values()], [*second.values()]).pvalue)


def test_a_mean_of_groups_weighs_the_differences_as_the_figure_does():
    """Their mean is the difference of the two figures, also where data sets have unequal numbers of seeds."""
    first = {("a", 0): 0.9, ("a", 1): 0.8, ("a", 2): 0.85, ("b", 0): 0.6}
    second = {("a", 0): 0.7, ("a", 1): 0.7, ("a", 2): 0.6, ("b", 0): 0.5}
    shares = {"a": 0.25, "b": 0.75}
    found = verdicts({"first": first, "second": second}, {"first": 0.9, "second": 0.5}, shares)
    weights = {"a": 0.25 * 4 / 3, "b": 0.75 * 4}
    weighted = [(first[pair] - second[pair]) * weights[pair[0]] for pair in first]
    assert sum(weighted) / 4 == pytest.approx(0.25 * (0.55 / 3) + 0.75 * 0.1)
    assert found["second"].p == pytest.approx(stats.ttest_1samp(weighted, 0).pvalue)


def test_a_data_set_without_a_shared_seed_makes_a_mean_untestable():
    first, second = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.7}, {("a", 0): 0.8, ("a", 1): 0.6, ("b", 1): 0.7}
    found = verdicts({"first": first, "second": second}, {"first": 0.8, "second": 0.7}, {"a": 0.5, "b": 0.5})
    assert found["second"].kind == "untestable"
