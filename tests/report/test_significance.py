"""Intervals and ties are those of the textbook, and of SciPy."""

import random
from statistics import fmean

import pytest
from scipy import stats

from peft_vision.report.significance import Score, holm, paired_p, stratified_p, verdicts


def values(seed: int, n: int, mean: float = 0.7) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 0.02) for _ in range(n)]


def by_seed(found: list[float], data: str = "digits") -> dict[tuple[str, int], float]:
    return {(data, seed): value for seed, value in enumerate(found)}


def judged(samples):
    means = {name: sum(sample.values()) / len(sample) for name, sample in samples.items()}
    return verdicts(samples, means, (("digits",),), "seeds")


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
    assert {name: verdict.kind for name, verdict in found.items()} == {"best": "best", "close": "tie", "worse": "worse"}
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
    assert {verdict.kind for verdict in found.values()} == {"best"}


PAIRS = [(data, seed) for data in ("a", "b", "c") for seed in range(4)]
ALL = (("a", "b", "c"),)
GROUPED = (("a",), ("b", "c"))


def two() -> tuple[dict[tuple[str, int], float], dict[tuple[str, int], float]]:
    draw = random.Random(3)
    first = {pair: draw.gauss(0.8, 0.02) for pair in PAIRS}
    return first, {pair: value - draw.gauss(0.01, 0.01) for pair, value in first.items()}


def compared(first, second, strata, over):
    means = {"first": fmean(first.values()), "second": fmean(second.values())}
    return verdicts({"first": first, "second": second}, means, strata, over)["second"]


def mean(sample, **where) -> float:
    """Over the pairs of this data set, or seed."""
    found = [value for (data, seed), value in sample.items() if where in ({"data": data}, {"seed": seed})]
    return fmean(found)


def test_over_seeds_each_seed_counts_once_with_its_mean_over_the_data_sets():
    first, second = two()
    found = compared(first, second, ALL, "seeds")
    expected = stats.ttest_rel(*([mean(sample, seed=seed) for seed in range(4)] for sample in (first, second)))
    assert (found.pairs, found.over, found.p) == (4, "seeds", pytest.approx(expected.pvalue))


def test_over_data_sets_each_counts_once_with_its_mean_over_the_seeds():
    first, second = two()
    found = compared(first, second, ALL, "data_sets")
    expected = stats.ttest_rel(*([mean(sample, data=data) for data in "abc"] for sample in (first, second)))
    assert (found.pairs, found.over, found.p) == (3, "data_sets", pytest.approx(expected.pvalue))


def test_over_seeds_a_mean_of_groups_weighs_data_sets_as_the_figure_does():
    first, second = two()
    differences = {pair: first[pair] - second[pair] for pair in PAIRS}
    weighted = [differences["a", seed] / 2 + (differences["b", seed] + differences["c", seed]) / 4 for seed in range(4)]
    found = compared(first, second, GROUPED, "seeds")
    assert found.p == pytest.approx(stats.ttest_1samp(weighted, 0).pvalue)


def test_over_data_sets_each_group_is_a_sample_of_its_own():
    """Of two groups whose methods' means are compared it is Welch's test, turned round."""
    first, second = [0.03, 0.01, 0.025, 0.004], [0.001, 0.002, -0.001]
    expected = stats.ttest_ind(first, [-value for value in second], equal_var=False).pvalue
    assert stratified_p([first, second]) == pytest.approx(expected)
    assert stratified_p([first]) == pytest.approx(stats.ttest_1samp(first, 0).pvalue)
    assert stratified_p([first, second[:1]]) is None


@pytest.mark.parametrize("over", ["seeds", "data_sets"])
def test_one_seed_leaves_the_question_over_data_sets_and_one_data_set_that_over_seeds(over):
    first, second = two()
    one_seed = [{pair: sample[pair] for pair in PAIRS if pair[1] == 0} for sample in (first, second)]
    found = compared(*one_seed, ALL, over)
    assert (found.kind != "untestable", found.pairs, found.over) == (True, 3, "data_sets")
    one_data = [{pair: sample[pair] for pair in PAIRS if pair[0] == "a"} for sample in (first, second)]
    found = compared(*one_data, (("a",),), over)
    assert (found.kind != "untestable", found.pairs, found.over) == (True, 4, "seeds")


def test_a_group_of_one_data_set_is_no_sample_of_data_sets():
    first, second = two()
    assert compared(first, second, GROUPED, "data_sets").over == "seeds"
    one_seed = [{pair: sample[pair] for pair in PAIRS if pair[1] == 0} for sample in (first, second)]
    assert compared(*one_seed, GROUPED, "data_sets").kind == "untestable"


def test_only_seeds_that_every_data_set_has_are_compared_over_seeds():
    first, second = two()
    del second["b", 1]
    found = compared(first, second, ALL, "seeds")
    kept = [fmean(first[data, seed] - second[data, seed] for data in "abc") for seed in (0, 2, 3)]
    assert (found.pairs, found.p) == (3, pytest.approx(stats.ttest_1samp(kept, 0).pvalue))


def test_a_data_set_without_a_shared_seed_makes_a_mean_untestable():
    first, second = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.7}, {("a", 0): 0.8, ("a", 1): 0.6, ("b", 1): 0.7}
    for over in ("seeds", "data_sets"):
        assert compared(first, second, (("a", "b"),), over).kind == "untestable"


def test_a_method_that_wins_on_the_shared_seeds_is_never_worse():
    """The best one's figure rests on a seed that the other has not."""
    best = {**by_seed([0.5, 0.51, 0.52, 0.53]), ("digits", 4): 1.0}
    other = by_seed([0.55, 0.561, 0.57, 0.58])
    found = judged({"best": best, "other": other})["other"]
    assert (found.kind, found.p < 0.05) == ("tie", True)
