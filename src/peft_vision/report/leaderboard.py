"""This module ranks methods by test accuracy, or by the metric of another objective: a line for each method, a column
for each data set, then their means.

A method's figure on a data set is that of the setting that validation chose. A method has a mean only if it has a
figure on every data set of that mean. An entry without a figure says why.

Papers report two means, which differ where groups of data sets differ in size: VTAB's authors the mean over 19 tasks,
the papers on prompts and adapters the mean over the means of natural, specialized and structured. Both are columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.choose import WORDS, Protocol, Setting, titled
from peft_vision.report.collect import LeftOut
from peft_vision.report.finished import RunRecord
from peft_vision.report.id_ood import Comparison, rank
from peft_vision.report.options import Options, Over
from peft_vision.report.problems import TaskResults, problems
from peft_vision.report.significance import Pair, Score, Strata, Verdict, mean_score, verdicts

Status = Literal["scored", "missing", "failed", "unfinished", "only tuned", "undecided", "incomplete"]
COSTS = ("cost/peak_mib", "cost/train_seconds")
STATE = "cost/state_mib"  # a cost that pictures show


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


@dataclass(frozen=True)
class BoardEntry:
    """An entry of a line, in one column. `score`: None unless `status` is scored; of ranks of the metric on test
    images, which are higher for better ones, and accuracies where one class a picture is learned. `values`: these by
    data set and seed. `of`, `covered`: the number of data sets that a mean is over, and how many of them have a figure.
    `setting`: the chosen one of `tried` settings, and `settings` those of every data set that a mean is over."""

    status: Status
    score: Score | None
    values: Mapping[Pair, float]
    covered: int
    of: int
    verdict: Verdict | None
    setting: Setting | None
    tried: int
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class BoardLine:
    """The line of one method. `on_test`: whether test images chose a setting. `parameters`: how many trained, the mean
    over the data sets it was scored on."""

    method: str
    entries: tuple[BoardEntry, ...]
    on_test: bool
    parameters: float | None

    def cost(self, number: int, what: str) -> float | None:
        """Return the cost in column `number`: parameters, STATE, or one of COSTS; for a mean, that over the data sets
        of its column; None where one was not measured."""
        settings = self.entries[number].settings
        return _average([trained(one) if what == "parameters" else mean_cost(one, what) for one in settings])

    @property
    def tried(self) -> tuple[int, int]:
        """Return the fewest and the most settings tried on one data set."""
        counts = [entry.tried for entry in self.entries if entry.tried] or [0]
        return min(counts), max(counts)


@dataclass(frozen=True)
class Leaderboard:
    """The leaderboard of one backbone, protocol and metric. `title`: the backbone, and the protocol where there are
    several, and the metric unless it is accuracy.
    `problems`: its data sets, in the order of their columns. `seeds`: the largest number of seeds in an entry of a data
    set. `ties_over`: the requested sample of the test of a mean. The last column orders the lines."""

    backbone: str
    protocol: Protocol
    metric: Metric
    title: str
    problems: tuple[TaskResults, ...]
    columns: tuple[BoardColumn, ...]
    lines: tuple[BoardLine, ...]
    seeds: int
    ties_over: Over

    @property
    def protocol_words(self) -> str:
        """Return the protocol in words where its backbone has several; else an empty string."""
        return WORDS[self.protocol] if WORDS[self.protocol] in self.title else ""

    @property
    def data(self) -> tuple[BoardColumn, ...]:
        return tuple(column for column in self.columns if column.kind == "data")


def leaderboards(
    compared: Sequence[Comparison], runs: Sequence[RunRecord], left_out: Sequence[LeftOut], options: Options
) -> list[Leaderboard]:
    """Return a leaderboard for each backbone and each protocol and metric of its runs. `compared`: comparisons of the
    same runs."""
    by_backbone: dict[str, dict[tuple[Protocol, Metric], list[TaskResults]]] = {}
    for problem in problems(compared, runs, left_out, options):
        by_backbone.setdefault(problem.backbone, {}).setdefault((problem.protocol, problem.metric), []).append(problem)
    return [
        _board(backbone, titled(backbone, protocol, [name for name, _ in by_axes]), found, options)
        for backbone, by_axes in by_backbone.items()
        for (protocol, _), found in by_axes.items()
    ]


def _board(backbone: str, title: str, unordered: Sequence[TaskResults], options: Options) -> Leaderboard:
    group_of = {problem.label: problem.group(options.groups) for problem in unordered}
    metric = unordered[0].metric
    groups = list(dict.fromkeys([*(options.groups or ()), *sorted(set(group_of.values()) - {""}), ""]))
    found = sorted(unordered, key=lambda problem: groups.index(group_of[problem.label]))
    columns = [BoardColumn(problem.label, "data", ((problem.label,),)) for problem in found]
    if not any(problem.is_one_of_several_amounts for problem in found):  # else the same test images would count twice
        columns += mean_columns({problem.label: group_of[problem.label] for problem in found}, options.groups)
    methods = sorted({method for problem in found for method in problem.methods}, key=rank)
    lines = []
    for method in methods:
        entries = {problem.label: _entry(problem, method) for problem in found}
        whole = [
            entries[column.label] if column.kind == "data" else _mean(column, entries, metric) for column in columns
        ]
        lines.append(_line(method, whole, found))
    judged = _judged(columns, lines, options)
    last = len(columns) - 1
    judged.sort(key=lambda line: (line.entries[last].score is None, -_height(line.entries[last])))
    seeds = max((entry.score.n for line in lines for entry in line.entries if entry.score and entry.setting), default=0)
    return Leaderboard(
        backbone=backbone,
        protocol=unordered[0].protocol,
        metric=metric,
        title=title if metric == ACCURACY else f"{title}, {metric.words}",
        problems=tuple(found),
        columns=tuple(columns),
        lines=tuple(judged),
        seeds=seeds,
        ties_over=options.ties_over,
    )


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


def _named(group: str, labels: list[str], wanted: Mapping[str, tuple[str, ...]] | None) -> str:
    whole = len((wanted or {}).get(group, ()))
    return f"{group} ({len(labels)} of {whole})" if len(labels) < whole else f"{group} ({len(labels)})"


def _height(entry: BoardEntry) -> float:
    return entry.score.mean if entry.score else -math.inf


def _entry(problem: TaskResults, method: str) -> BoardEntry:
    chosen, tried = problem.chosen.get(method), problem.tried(method)
    if chosen is None:
        return BoardEntry(problem.why_none(method), None, {}, 0, 1, None, None, tried, ())
    metric = problem.metric
    values = {(problem.label, run.seed): metric.rank(run.metrics[f"test/{metric.name}"]) for run in chosen.runs}
    score = Score.of(list(values.values()), fractions=metric.is_fraction)
    return BoardEntry("scored", score, values, 1, 1, None, chosen, tried, (chosen,))


def _mean(column: BoardColumn, entries: Mapping[str, BoardEntry], metric: Metric) -> BoardEntry:
    over = [entries[label] for label in column.labels]
    covered = sum(entry.score is not None for entry in over)
    values = {pair: value for entry in over for pair, value in entry.values.items()}
    settings = tuple(entry.setting for entry in over if entry.setting)
    if covered < len(over):
        return BoardEntry("incomplete", None, values, covered, len(over), None, None, 0, settings)
    score = mean_score(values, column.strata, fractions=metric.is_fraction)
    return BoardEntry("scored", score, values, covered, len(over), None, None, 0, settings)


def _judged(columns: Sequence[BoardColumn], lines: Sequence[BoardLine], options: Options) -> list[BoardLine]:
    """Return the lines with verdicts, judged one column at a time."""
    by_column = []
    for number, column in enumerate(columns):
        scored = {line.method: line.entries[number] for line in lines if line.entries[number].score}
        means = {method: entry.score.mean for method, entry in scored.items()}
        samples = {method: entry.values for method, entry in scored.items()}
        by_column.append(verdicts(samples, means, column.strata, options.ties_over) if len(lines) > 1 else {})
    return [
        replace(
            line,
            entries=tuple(
                replace(entry, verdict=found.get(line.method))
                for entry, found in zip(line.entries, by_column, strict=True)
            ),
        )
        for line in lines
    ]


def _line(method: str, entries: Sequence[BoardEntry], found: Sequence[TaskResults]) -> BoardLine:
    settings = [entry.setting for entry in entries if entry.setting]
    return BoardLine(
        method=method,
        entries=tuple(entries),
        on_test=any(setting.on_test for setting in settings),
        parameters=_average([trained(setting) for setting in settings]),
    )


def trained(setting: Setting) -> float:
    parameters = setting.runs[0].parameters
    return float(parameters["method"] + parameters["head"])


def mean_cost(setting: Setting, cost: str) -> float | None:
    """Return the mean cost over the seeds; None where one was not measured."""
    return _average([run.metrics.get(cost) for run in setting.runs])


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
