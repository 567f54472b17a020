"""This module computes both means that papers report: over all data sets, and over the means of their groups.

VTAB's authors report the first, over 19 tasks; the papers on prompts and adapters report the second, over natural,
specialized and structured. They differ where groups differ in size.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from peft_vision.report.significance import Pair, Score, Strata


@dataclass(frozen=True)
class BoardColumn:
    """A column of the leaderboard. `strata`: its data sets by group; its figure is the mean of the means over each
    group."""

    label: str
    kind: Literal["data", "group", "mean of groups", "mean"]
    strata: Strata

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the data sets of the column's figure."""
        return tuple(label for stratum in self.strata for label in stratum)


def mean_columns(group_of: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]] | None) -> list[BoardColumn]:
    """Return the columns of means. `group_of`: the group of each data set, empty where it has none. `wanted`: the data
    sets of whole groups; the label of an incomplete group says so."""
    if len(group_of) < 2:
        return []
    groups: dict[str, list[str]] = {}
    for label, group in group_of.items():
        if group:
            groups.setdefault(group, []).append(label)
    columns = [
        BoardColumn(_named(group, labels, wanted), "group", (tuple(labels),)) for group, labels in groups.items()
    ]
    if len(groups) > 1:
        strata = tuple(map(tuple, groups.values()))
        columns.append(BoardColumn(f"mean of {len(groups)} groups", "mean of groups", strata))
    return [*columns, BoardColumn(f"mean of {len(group_of)} data sets", "mean", (tuple(group_of),))]


def mean_score(values: Mapping[Pair, float], strata: Strata) -> Score:
    """Return the mean of a method's accuracies over the means of the `strata`. Where all data sets have the same seeds,
    the score is over the seeds' means; else it is the mean of the data sets' means, without a spread."""
    labels = [label for stratum in strata for label in stratum]
    by_data = {label: {seed: value for (data, seed), value in values.items() if data == label} for label in labels}
    seeds = {frozenset(found) for found in by_data.values()}
    if len(seeds) == 1:
        of_seeds = ({label: by_seed[seed] for label, by_seed in by_data.items()} for seed in sorted(*seeds))
        return Score.of([_mean(accuracies, strata) for accuracies in of_seeds])
    mean = _mean({label: fmean(found.values()) for label, found in by_data.items()}, strata)
    return Score(mean, None, None, None, min(map(len, by_data.values())))


def _mean(by_data: Mapping[str, float], strata: Iterable[Iterable[str]]) -> float:
    return fmean(fmean(by_data[label] for label in stratum) for stratum in strata)


def _named(group: str, labels: list[str], wanted: Mapping[str, tuple[str, ...]] | None) -> str:
    whole = len((wanted or {}).get(group, ()))
    return f"{group} ({len(labels)} of {whole})" if len(labels) < whole else f"{group} ({len(labels)})"
