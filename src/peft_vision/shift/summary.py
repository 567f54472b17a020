"""This module summarises the scores of all shifts, for each set and over all sets.

ood/<set>/<shift>/<metric>     the metric of one shift, if the shifts of the set have names
ood/<set>/<metric>             the mean over the set's shifts
ood/<set>/worst/accuracy       the lowest of them; ood/<set>/pooled/accuracy: that of all its images together
ood/mean/<metric>              the mean over the sets
ood/worst/accuracy             the lowest over all shifts
"""

from collections.abc import Iterable, Mapping
from statistics import fmean


def summarised(scores: Mapping[str, Mapping[str, float]], images: Mapping[str, int]) -> dict[str, float]:
    """Return the metrics above. `scores` and numbers of `images` are by shift: `set`, or `set/shift`."""
    sets: dict[str, list[str]] = {}
    for shift in scores:
        sets.setdefault(shift.split("/")[0], []).append(shift)
    metrics: dict[str, float] = {}
    for name, shifts in sets.items():
        if shifts != [name]:
            metrics |= {f"ood/{shift}/{metric}": value for shift in shifts for metric, value in scores[shift].items()}
        means = _means(scores[shift] for shift in shifts)
        metrics |= {f"ood/{name}/{metric}": value for metric, value in means.items()}
        if shifts != [name]:
            right = sum(scores[shift]["accuracy"] * images[shift] for shift in shifts)
            metrics[f"ood/{name}/worst/accuracy"] = min(scores[shift]["accuracy"] for shift in shifts)
            metrics[f"ood/{name}/pooled/accuracy"] = right / sum(images[shift] for shift in shifts)
    of_sets = [_means(scores[shift] for shift in shifts) for shifts in sets.values()]
    metrics |= {f"ood/mean/{metric}": value for metric, value in _means(of_sets).items()}
    return {**metrics, "ood/worst/accuracy": min(score["accuracy"] for score in scores.values())}


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    rows = list(rows)
    return {metric: fmean(row[metric] for row in rows) for metric in rows[0]}
