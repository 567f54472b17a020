"""This module reads tables of papers: accuracies in %, what they were measured on and how settings were chosen.

It lists the benchmarks that papers report, too: their data sets, in table order, and the group of each.

A table is a YAML file in this folder, or a user's own file in the same form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from peft_vision.core.config import ConfigError, nearest
from peft_vision.core.records import Unreadable, exists, read_yaml, validated
from peft_vision.data.benchmark import TASKS

_HERE = Path(__file__).parent
Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that papers report. `titles`, `groups`: by data set, under the name that data= takes. `folder`: the
    part of these names that all data sets share, which tables leave out."""

    name: str
    titles: Mapping[str, str]
    groups: Mapping[str, str]
    folder: str = ""

    def of_group(self, group: str) -> list[str]:
        return [data for data, name in self.groups.items() if name == group]


_FGVC = {
    "fgvc/cub200": "CUB-200-2011",
    "fgvc/nabirds": "NABirds",
    "fgvc/flowers102": "Oxford Flowers",
    "fgvc/dogs": "Stanford Dogs",
    "fgvc/cars": "Stanford Cars",
}
_LP_FT = {
    "cifar10": "CIFAR-10",
    "entity30": "Entity-30",
    "living17": "Living-17",
    "domainnet": "DomainNet (sketch)",
    "fmow": "FMoW (Americas)",
    "imagenet": "ImageNet",
}

BENCHMARKS = {
    "vtab": Benchmark(
        "VTAB-1k",
        {f"vtab/{task.name}": task.title for task in TASKS.values()},
        {f"vtab/{task.name}": task.group for task in TASKS.values()},
        "vtab/",
    ),
    "fgvc": Benchmark("FGVC", _FGVC, dict.fromkeys(_FGVC, "fgvc"), "fgvc/"),
    "lp_ft": Benchmark("LP-FT, in distribution", _LP_FT, dict.fromkeys(_LP_FT, "in distribution")),
}


class PublishedRow(BaseModel):
    """A method's row of a published table. `name`: in the paper. `values`: one for each of the table's tasks; None
    where only means are known. `groups`, `mean_of_groups`, `mean`: as printed, which may differ in the last digit from
    means of the rounded values. `weights`: None if they are the table's. `read_in`: where this row was read; empty:
    where the table was. `not_seen`: the figures that were not seen in any source; a group's name is its mean alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    values: tuple[Percent, ...] | None = None
    groups: Mapping[str, Percent] = {}
    mean_of_groups: Percent | None = None
    mean: Percent | None = None
    weights: str | None = None
    read_in: str = ""
    not_seen: tuple[str, ...] = ()
    remark: str = ""

    @model_validator(mode="after")
    def _has_what_was_not_seen(self) -> "PublishedRow":
        figures = [name for name in ("values", "groups", "mean_of_groups", "mean") if getattr(self, name)]
        if missing := [name for name in self.not_seen if name not in (*figures, *self.groups)]:
            raise ValueError(f"not_seen: the row has no {missing[0]}")
        return self


class TableContent(BaseModel):
    """The contents of a table's file. `read_in`: where these figures were read, and how certain they are.
    `weights_like`: timm's name of the weights, where `weights` is a longer description. `shown`: the values of data.
    that come nearest to how the images of a task were shown, where these differ from task to task. `rows`: by
    method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    read_in: str
    benchmark: Literal[tuple(BENCHMARKS)]
    weights: str
    weights_like: str | None = None
    images: str
    normalization: str
    selection: str
    seeds: str
    tasks: tuple[str, ...]
    shown: Mapping[str, Mapping[str, str]] = {}
    rows: Mapping[str, PublishedRow]

    @model_validator(mode="after")
    def _whole(self) -> "TableContent":
        benchmark = BENCHMARKS[self.benchmark]
        known = {data.removeprefix(benchmark.folder) for data in benchmark.titles}
        if strangers := [task for task in self.tasks if task not in known]:
            raise ValueError(f"tasks: {self.benchmark} has no {strangers[0]}{nearest(strangers[0], sorted(known))}")
        if strangers := [task for task in self.shown if task not in self.tasks]:
            raise ValueError(f"shown: tasks has no {strangers[0]}{nearest(strangers[0], self.tasks)}")
        for method, row in self.rows.items():
            if row.values is not None and len(row.values) != len(self.tasks):
                raise ValueError(f"rows.{method}: {len(row.values)} values for {len(self.tasks)} tasks")
        return self


@dataclass(frozen=True)
class PublishedTable:
    """A published table. `name`: that of its file, without the suffix."""

    name: str
    content: TableContent

    @property
    def benchmark(self) -> Benchmark:
        return BENCHMARKS[self.content.benchmark]

    @property
    def weights(self) -> str:
        """Return timm's name of the table's weights."""
        return self.content.weights_like or self.content.weights

    def weights_of(self, method: str) -> str:
        return self.content.rows[method].weights or self.weights

    def shown(self, data: str) -> Mapping[str, str]:
        """Return the values of data. that show a data set, named as data= takes it, most like the paper; empty where
        this is not known."""
        return self.content.shown.get(data.removeprefix(self.benchmark.folder), {})

    def values(self, method: str) -> dict[str, float]:
        """Return the accuracies in % by data set, named as data= takes it; empty where only means are known."""
        row = self.content.rows[method]
        tasks = [f"{self.benchmark.folder}{task}" for task in self.content.tasks]
        return {} if row.values is None else dict(zip(tasks, row.values, strict=True))

    def group(self, method: str, group: str) -> float | None:
        """Return the mean of a group as printed, else computed from its data sets; None if one of these is unknown."""
        values, of_group = self.values(method), self.benchmark.of_group(group)
        if group in self.content.rows[method].groups:
            return self.content.rows[method].groups[group]
        if values.keys() >= set(of_group):
            return fmean(values[data] for data in of_group)
        return None

    def mean_of_groups(self, method: str) -> float | None:
        """Return the mean of the group means as printed, else computed; None if the mean of a group is unknown."""
        printed = self.content.rows[method].mean_of_groups
        groups = [self.group(method, group) for group in dict.fromkeys(self.benchmark.groups.values())]
        return printed if printed is not None or None in groups else fmean(groups)

    def mean(self, method: str) -> float | None:
        """Return the mean over all data sets as printed, else computed; None if one of these is unknown."""
        printed, values = self.content.rows[method].mean, self.values(method)
        whole = values.keys() == self.benchmark.titles.keys()
        return printed if printed is not None or not whole else fmean(values.values())

    def about(self, method: str) -> str:
        """Return notes on a row: where its figures were read, which were not seen in a source, and the row's remark."""
        row = self.content.rows[method]
        unseen = ", ".join({"values": "its figures"}.get(name, name.replace("_", " ")) for name in row.not_seen)
        notes = [
            f"read in {row.read_in}" if row.read_in else "",
            f"seen in no source: {unseen}" if unseen else "",
            row.remark,
        ]
        return "; ".join(text for text in notes if text)


def shipped() -> list[str]:
    """Return the names of the tables in this folder."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def table(name: str) -> PublishedTable:
    """Return a shipped table, or that of a user's file. ConfigError if it does not exist or is not of this form."""
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else _HERE / f"{name}.yaml"
    if not exists(path):
        known = ", ".join(shipped())
        raise ConfigError(f"published: no table {name!r}; there are {known}{nearest(name, shipped())}, or a YAML file")
    try:
        return PublishedTable(path.stem, validated(read_yaml(path), path, TableContent))
    except Unreadable as error:
        raise ConfigError(f"published: {error}") from error
