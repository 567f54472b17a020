"""Means over data sets, of both kinds that papers report: over all data sets, and over the means of their groups.

VTAB's authors report the first, of 19 tasks; the papers on prompts and adapters the second, of natural, specialized and
structured. They differ where groups are not of one size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from peft_vision.report.significance import Pair, Score


@dataclass(frozen=True)
class Column:
    """`shares`: of each data set in its figure, which add up to 1."""

    label: str
    kind: Literal["data", "group", "mean of groups", "mean"]
    shares: Mapping[str, float]


def mean_columns(group_of: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]] | None) -> list[Column]:
    """`group_of`: of each data set, empty where it has none. `wanted`: whole groups; one that is not whole says so."""
    if len(group_of) < 2:
        return []
    groups: dict[str, list[str]] = {}
    for label, group in group_of.items():
        if group:
            groups.setdefault(group, []).append(label)
    columns = [Column(_named(group, its, wanted), "group", _equal(its)) for group, its in groups.items()]
    if len(groups) > 1:
        shares = {label: 1 / len(groups) / len(its) for its in groups.values() for label in its}
        columns.append(Column(f"mean of {len(groups)} groups", "mean of groups", shares))
    return [*columns, Column(f"mean of {len(group_of)} data sets", "mean", _equal(list(group_of)))]


def mean_score(values: Mapping[Pair, float], shares: Mapping[str, float]) -> Score:
    """Return the mean of a method's accuracies over all data sets, weighted by `shares`. Where all data sets have the
    same seeds, the score is of each seed's mean; else it is the mean of the data sets' means, with no spread."""
    by_data = {label: {seed: value for (data, seed), value in values.items() if data == label} for label in shares}
    seeds = {frozenset(found) for found in by_data.values()}
    if len(seeds) == 1:
        return Score.of([sum(shares[label] * by_data[label][seed] for label in shares) for seed in sorted(*seeds)])
    mean = sum(shares[label] * fmean(found.values()) for label, found in by_data.items())
    return Score(mean, None, None, None, min(map(len, by_data.values())))


def _named(group: str, labels: list[str], wanted: Mapping[str, tuple[str, ...]] | None) -> str:
    whole = len((wanted or {}).get(group, ()))
    return f"{group} ({len(labels)} of {whole})" if len(labels) < whole else f"{group} ({len(labels)})"


def _equal(labels: list[str]) -> dict[str, float]:
    return dict.fromkeys(labels, 1 / len(labels))
