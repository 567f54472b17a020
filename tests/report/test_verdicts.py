"""How often a verdict is wrong, of methods whose truth is known: made-up figures, judged as a report judges them.

Both questions are put: over seeds, on data sets that stay the same; and over data sets, drawn anew each time. A
binomial count with the nominal rate lies outside the bounds once in a thousand times."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binom

from peft_vision.report.leaderboard import mean_columns
from peft_vision.report.options import Over
from peft_vision.report.significance import LEVEL, mean_score, verdicts

DATA = [f"task {number}" for number in range(19)]
GROUPS = {
    name: "natural" if number < 7 else "specialized" if number < 11 else "structured"
    for number, name in enumerate(DATA)
}
UNGROUPED = dict.fromkeys(DATA, "")
TIMES = 1000
OF_DATA, OF_SEED = 0.02, 0.005  # deviations of a difference: from one data set to the next, and by the seed


def bounds(rate: float) -> tuple[float, float]:
    low, high = binom.interval(0.999, TIMES, rate)
    return low / TIMES, high / TIMES


def centred(values: np.ndarray, group_of: dict[str, str]) -> np.ndarray:
    """With a mean of zero in each group, so that no mean over groups or data sets differs."""
    groups = np.array([group_of[name] for name in DATA])
    return values - np.array([values[groups == group].mean() for group in groups])


def draws(*, seeds: int, fixed: bool, gap: float, group_of: dict[str, str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Accuracies of two methods by data set and seed; the second is worse by `gap` in truth."""
    rng = np.random.default_rng(seeds)
    same = centred(rng.normal(0, OF_DATA, len(DATA)), group_of)
    for _ in range(TIMES):
        of_data = same if fixed else rng.normal(0, OF_DATA, len(DATA))
        first, second = rng.normal(0.7, OF_SEED, (2, len(DATA), seeds))
        yield first, second - gap + of_data[:, None]


def share_called_worse(over: Over, *, seeds: int, fixed: bool, gap: float = 0.0, grouped: bool = False) -> float:
    group_of = GROUPS if grouped else UNGROUPED
    column = next(
        candidate
        for candidate in mean_columns(group_of, None)
        if candidate.kind == ("mean of groups" if grouped else "mean")
    )
    found = 0
    for drawn in draws(seeds=seeds, fixed=fixed, gap=gap, group_of=group_of):
        samples = {
            name: {(data, seed): value for data, row in zip(DATA, rows, strict=True) for seed, value in enumerate(row)}
            for name, rows in zip(("first", "second"), drawn, strict=True)
        }
        means = {name: mean_score(sample, column.strata).mean for name, sample in samples.items()}
        found += "worse" in {verdict.kind for verdict in verdicts(samples, means, column.strata, over).values()}
    return found / TIMES


@pytest.mark.parametrize("grouped", [False, True], ids=["mean", "mean of groups"])
@pytest.mark.parametrize("seeds", [1, 5])
def test_equal_methods_on_drawn_data_sets_differ_no_more_often_than_the_level_says(seeds, grouped):
    """With one seed it is the only question there is."""
    low, high = bounds(LEVEL)
    assert low <= share_called_worse("data_sets", seeds=seeds, fixed=False, grouped=grouped) <= high


@pytest.mark.parametrize("grouped", [False, True], ids=["mean", "mean of groups"])
@pytest.mark.parametrize("seeds", [2, 5])
def test_equal_methods_on_the_same_data_sets_differ_no_more_often_than_the_level_says(seeds, grouped):
    low, high = bounds(LEVEL)
    assert low <= share_called_worse("seeds", seeds=seeds, fixed=True, grouped=grouped) <= high


def test_a_gap_on_these_data_sets_is_found_though_they_differ_among_each_other():
    """Half a point, where data sets differ by two: five seeds tell, and over data sets it stays a tie."""
    assert share_called_worse("seeds", seeds=5, fixed=True, gap=0.005) > 0.95
    assert share_called_worse("data_sets", seeds=5, fixed=True, gap=0.005) < 0.5
