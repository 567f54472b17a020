"""This module computes how certain a mean is, and whether the best of several methods is better than the others.

The interval is Student's 95 % interval over seeds. Each method is compared with the best by a paired t-test, and the
p-values are corrected for their number (Holm, 1979): sorted, p_(k) (m - k + 1), never less than the one before. A
difference that is not significant at 5 % is a tie.

The pairs depend on the question. Over seeds: is the best method better on these data sets, whatever the seed? Each seed
gives one difference, of the means over the data sets. Over data sets: is it better on data sets such as these, of which
these are a sample? Each data set gives one difference, of the means over the seeds. Pairs of data set and seed are a
sample of neither kind, because those of one data set, or of one seed, are correlated.

With groups, data sets are samples of their own groups (strata): the variance of the difference is that of the mean of
the groups' means, and its degrees of freedom are those of Satterthwaite (1946) and Welch (1947).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev, variance
from typing import Literal

from peft_vision.report.options import Over

CONFIDENCE = 0.95
LEVEL = 0.05
_DIGITS = 12  # beyond these, equal accuracies differ by the order of summation

Pair = tuple[str, int]
"""A data set and a seed, which two accuracies must share to be a pair."""

Strata = tuple[tuple[str, ...], ...]
"""Data sets by group; a figure is the mean of the means over each group."""


@dataclass(frozen=True)
class Score:
    """The mean of accuracies, as fractions, or of ranks of another metric, and its uncertainty. `std`: with n - 1; it
    and the interval from `low` to `high` are None where there is one value, or where the values are not of the same
    seeds. The interval of fractions is clipped to 0 and 1."""

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float], *, fractions: bool = True) -> "Score":
        """Return the score of `values`, of which there must be at least one."""
        if len(values) == 1:
            return cls(values[0], None, None, None, 1)
        mean, std = fmean(values), stdev(values)
        half = _quantile(len(values) - 1) * std / math.sqrt(len(values))
        low, high = mean - half, mean + half
        return cls(mean, std, max(0.0, low) if fractions else low, min(1.0, high) if fractions else high, len(values))


def mean_score(values: Mapping[Pair, float], strata: Strata, *, fractions: bool = True) -> Score:
    """Return the mean of a method's accuracies over the means of the `strata`. Where all data sets have the same seeds,
    the score is over the seeds' means; else it is the mean of the data sets' means, without a spread."""
    labels = [label for stratum in strata for label in stratum]
    by_data = {label: {seed: value for (data, seed), value in values.items() if data == label} for label in labels}
    seeds = {frozenset(found) for found in by_data.values()}
    if len(seeds) == 1:
        of_seeds = ({label: by_seed[seed] for label, by_seed in by_data.items()} for seed in sorted(*seeds))
        return Score.of([_mean_of_strata(accuracies, strata) for accuracies in of_seeds], fractions=fractions)
    mean = _mean_of_strata({label: fmean(found.values()) for label, found in by_data.items()}, strata)
    return Score(mean, None, None, None, min(map(len, by_data.values())))


def _mean_of_strata(by_data: Mapping[str, float], strata: Iterable[Iterable[str]]) -> float:
    return fmean(fmean(by_data[label] for label in stratum) for stratum in strata)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a method. `p`: corrected; None for the best and where nothing could be tested. `pairs`: how many
    differences were tested, `over` seeds or data sets; None for the best and where neither could be tested."""

    kind: Literal["best", "tie", "worse", "untestable"]
    p: float | None
    pairs: int
    over: Over | None


@dataclass(frozen=True)
class _Test:
    """The test of one method against the best. `p`: before correction; None where the differences allow no test.
    `behind`: whether the method is worse than the best by the mean difference."""

    p: float | None
    pairs: int
    over: Over | None
    behind: bool


def verdicts(
    samples: Mapping[str, Mapping[Pair, float]], means: Mapping[str, float], strata: Strata, over: Over
) -> dict[str, Verdict]:
    """Judge each method of a column. `samples`: its accuracies; `means`: the figure that is compared, over `strata`;
    `over`: the sample to test wherever that is possible; elsewhere the other one is tested."""
    if not means:
        return {}
    highest = round(max(means.values()), _DIGITS)
    best = [name for name, mean in means.items() if round(mean, _DIGITS) == highest]
    judged = {name: Verdict("best", None, 0, None) for name in best}
    tests = {name: _test(samples[best[0]], samples[name], strata, over) for name in means if name not in judged}
    corrected = holm({name: test.p for name, test in tests.items() if test.p is not None})
    for name, test in tests.items():
        p = corrected.get(name)
        kind = "untestable" if p is None else "worse" if p <= LEVEL and test.behind else "tie"
        judged[name] = Verdict(kind, p, test.pairs, test.over)
    return judged


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Return the p-values corrected by Holm's method."""
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(values) - rank)))
        corrected[name] = least
    return corrected


def paired_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a mean difference of zero; None for fewer than two differences, and for equal
    ones, which the test cannot judge."""
    return stratified_p([differences])


def stratified_p(strata: Sequence[Sequence[float]]) -> float | None:
    """Return the two-sided p-value of a zero mean of the strata's mean differences; None where a stratum has fewer than
    two differences, and where the differences within every stratum are equal."""
    if not strata or min(map(len, strata)) < 2 or all(len(_distinct(stratum)) < 2 for stratum in strata):
        return None
    from scipy.special import stdtr  # here, because the import takes a moment

    parts = [variance(stratum) / len(stratum) / len(strata) ** 2 for stratum in strata]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(stratum) - 1) for part, stratum in zip(parts, strata, strict=True))
    t = fmean(map(fmean, strata)) / math.sqrt(sum(parts))
    return 2 * float(stdtr(freedom, -abs(t)))


def _distinct(values: Iterable[float]) -> set[float]:
    return {round(value, _DIGITS) for value in values}


def _test(first: Mapping[Pair, float], second: Mapping[Pair, float], strata: Strata, over: Over) -> _Test:
    """Test over `over`, or over the other sample where `over` gives too few differences."""
    by_data = _shared(first, second, strata)
    asked: dict[Over, list[list[float]]] = {
        "seeds": [_over_seeds(by_data, strata)],
        "data_sets": [[fmean(by_data[label].values()) for label in stratum] for stratum in strata] if by_data else [[]],
    }
    other: Over = "data_sets" if over == "seeds" else "seeds"
    can = [sample for sample in (over, other) if min(map(len, asked[sample])) > 1]
    if not can:
        return _Test(None, len(asked["seeds"][0]), None, behind=False)
    found = asked[can[0]]
    return _Test(stratified_p(found), sum(map(len, found)), can[0], behind=fmean(map(fmean, found)) > 0)


def _shared(first: Mapping[Pair, float], second: Mapping[Pair, float], strata: Strata) -> dict[str, dict[int, float]]:
    """Return the differences by data set and seed, of the seeds that both have; empty where a data set has none."""
    labels = [label for stratum in strata for label in stratum]
    found: dict[str, dict[int, float]] = {label: {} for label in labels}
    for pair in first:
        if pair in second and pair[0] in found:
            found[pair[0]][pair[1]] = first[pair] - second[pair]
    return found if all(found.values()) else {}


def _over_seeds(by_data: Mapping[str, Mapping[int, float]], strata: Strata) -> list[float]:
    """Return the difference of each seed that all data sets have."""
    if not by_data:
        return []
    seeds = set.intersection(*(set(by_seed) for by_seed in by_data.values()))
    return [fmean(fmean(by_data[label][seed] for label in stratum) for stratum in strata) for seed in sorted(seeds)]


@cache
def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # here, because the import takes a moment

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
