"""How sure a mean is, and whether the best of several is better than the others.

The interval is Student's, of 95 %, over seeds. Each method is compared with the best by a paired t-test over what both
have, and the p-values are corrected for their number (Holm, 1979): sorted, p_(k) (m - k + 1), never less than the one
before. Not significant, at 5 %, is a tie.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Literal

CONFIDENCE = 0.95
LEVEL = 0.05
_DIGITS = 12  # beyond these, equal accuracies differ by the order of a sum

Pair = tuple[str, int]
"""Data set and seed: what two accuracies must share to be a pair."""


@dataclass(frozen=True)
class Score:
    """The mean of accuracies, as fractions, and its uncertainty. `std`: with n - 1; it and the interval from `low` to
    `high` are None where there is one value, or where the values are not of the same seeds. The interval ends at 0 and
    1."""

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Score":
        """At least one value."""
        if len(values) == 1:
            return cls(values[0], None, None, None, 1)
        mean, std = fmean(values), stdev(values)
        half = _quantile(len(values) - 1) * std / math.sqrt(len(values))
        return cls(mean, std, max(0.0, mean - half), min(1.0, mean + half), len(values))


@dataclass(frozen=True)
class Verdict:
    """`p`: corrected; None of the best and where nothing could be tested. `pairs`: that were compared."""

    kind: Literal["best", "tie", "worse", "untestable"]
    p: float | None
    pairs: int


def verdicts(
    samples: Mapping[str, Mapping[Pair, float]], means: Mapping[str, float], shares: Mapping[str, float]
) -> dict[str, Verdict]:
    """By method. `samples`: its accuracies; `means`: the figure that is compared; `shares`: of each data set in it."""
    if not means:
        return {}
    highest = round(max(means.values()), _DIGITS)
    best = [name for name, mean in means.items() if round(mean, _DIGITS) == highest]
    judged = {name: Verdict("best", None, 0) for name in best}
    raw: dict[str, tuple[float, int]] = {}
    for name in means:
        if name not in judged:
            differences = _differences(samples[best[0]], samples[name], shares)
            p = paired_p(differences)
            judged[name] = Verdict("untestable", None, len(differences))
            raw |= {} if p is None else {name: (p, len(differences))}
    corrected = holm({name: p for name, (p, _) in raw.items()})
    for name, p in corrected.items():
        judged[name] = Verdict("worse" if p <= LEVEL else "tie", p, raw[name][1])
    return judged


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Corrected p-values."""
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(values) - rank)))
        corrected[name] = least
    return corrected


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided, of a mean difference of zero; None for less than two, and for differences that are all the same, of
    which the test says nothing."""
    if len({round(difference, _DIGITS) for difference in differences}) < 2:
        return None
    from scipy.special import stdtr  # here, because it takes a moment

    t = fmean(differences) / (stdev(differences) / math.sqrt(len(differences)))
    return 2 * float(stdtr(len(differences) - 1, -abs(t)))


def _differences(first: Mapping[Pair, float], second: Mapping[Pair, float], shares: Mapping[str, float]) -> list[float]:
    """Return the differences of all pairs, each weighted by its data set, so that their mean is the difference of the
    scores; empty where a data set has no pair."""
    pairs = [pair for pair in first if pair in second and pair[0] in shares]
    counts = Counter(data for data, _ in pairs)
    if set(counts) != set(shares):
        return []
    return [(first[pair] - second[pair]) * shares[pair[0]] * len(pairs) / counts[pair[0]] for pair in pairs]


@cache
def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # here, because it takes a moment

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
