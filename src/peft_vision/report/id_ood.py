"""This module compares accuracy in and out of distribution of methods trained on one data set from one backbone.

A row shows one method, or a method with one value of a key that has separate rows, at its chosen setting. A row of the
head before anything else trained may precede it, and one of the weights interpolated at the alpha that validation chose
may follow it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from peft_vision.core.config import nearest
from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.choose import MethodCell, Protocol, cell, protocol, titled
from peft_vision.report.finished import RunRecord
from peft_vision.report.options import Transform
from peft_vision.report.robustness import Counts, FittedLine, comparable, fit
from peft_vision.runs.run_records import ID_SPLITS

ID = "test/accuracy"
MEAN = "ood/mean"
AMOUNTS = ("data.train_size", "data.shots", "data.test_size", "data.val_fraction")
"""How many of the images are used, not which data set."""
_COUNTS = re.compile(r"(?<=: )\d+ train(?: \+ \d+ \w+)*(?= images )")
_GAPS = re.compile(r", \d+ of them without a training image")
_FIRST = {"linear": 0, "full": 1}  # the others follow, by name
_PROBE = "probe/"

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Statistic:
    """The mean and standard deviation over the seeds that have a value; `std` with n - 1, None for one seed."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Statistic | None":
        """Return the statistic of these values; None if there are none."""
        found = tuple(values)
        if not found:
            return None
        spread = stdev(found) if found[1:] and all(map(math.isfinite, found)) else math.nan
        return cls(fmean(found), spread if found[1:] else None, found)


@dataclass(frozen=True)
class ComparisonRow:
    """A row of a comparison. `scores`: one for each seed of the chosen setting, none where no setting could be chosen,
    as `setting` then says. `all_scores`: of every seed and setting. `parameters`: how many trained. `is_interpolated`:
    whether its weights lie between two models."""

    label: str
    cell: MethodCell
    setting: str
    parameters: int
    scores: tuple[Scores, ...]
    all_scores: tuple[Scores, ...]
    is_interpolated: bool = False

    def statistic(self, metric: str) -> Statistic | None:
        """Return the statistic of a metric over the seeds that have it."""
        return Statistic.of(scores[metric] for scores in self.scores if metric in scores)


@dataclass(frozen=True)
class Comparison:
    """A comparison of methods on one data set from one backbone, by one metric. `sets`: for each set, the image counts
    of its shifts. `images`: the image count behind each accuracy, by metric. `lines`: fitted through the reference
    runs, for each set and ood/mean; `no_line`: why there is none. `costs`: whether memory and time are shown. `notes`:
    what a reader must know. `title`: the data set, the backbone and, where another comparison is of the same two, the
    protocol."""

    backbone: str
    data: str
    protocol: Protocol
    metric: Metric
    title: str
    source: str
    sets: Mapping[str, Counts]
    images: Counts
    rows: tuple[ComparisonRow, ...]
    lines: Mapping[str, FittedLine]
    no_line: Mapping[str, str]
    transform: Transform
    reference: str
    costs: bool
    notes: tuple[str, ...]


def comparisons(
    runs: Sequence[RunRecord],
    *,
    reference: Sequence[str] | None,
    transform: Transform,
    rows: Sequence[str] = (),
    costs: bool = False,
) -> list[Comparison]:
    """Return a comparison for each backbone, data set, protocol and metric of the runs that saw test images.
    `reference`: the methods whose runs the lines are fitted through; None: all. `rows`: keys whose values get separate
    rows, as methods do: a config group, or a value such as optimizer.rank."""
    tested = [run for run in runs if f"test/{run.metric.name}" in run.metrics]
    telling = telling_keys(tested, rows)
    problems: dict[tuple[str, str, str, str, Protocol, Metric], list[RunRecord]] = {}
    found: dict[tuple[str, str], set[Protocol]] = {}
    for run in tested:
        key = (run.data, _images(run), run.backbone, run.weights, protocol(run), run.metric)
        problems.setdefault(key, []).append(run)
        found.setdefault((run.data, backbone_label(run)), set()).add(protocol(run))
    return [
        _comparison(problems[key], reference, transform, telling, costs, found) for key in sorted(problems, key=str)
    ]


def _images(run: RunRecord) -> str:
    """Return a text that is equal for runs on the same images, also where each seed divides them in its own way: then
    other classes may have no training image, and of corrupt pictures that are left out others are in each split."""
    said = _GAPS.sub("", run.source, count=1)
    if run.setting.get("data.on_corrupt") != "skip":
        return said
    total = run.skipped + sum(run.images[split] for split in ("train", *ID_SPLITS) if split in run.images)
    return repr((_COUNTS.sub("", said, count=1), total, [run.setting.get(key) for key in AMOUNTS]))


def backbone_label(run: RunRecord) -> str:
    """Return the option of the backbone, or its name in timm where the option is timm."""
    return run.backbone if run.backbone != "timm" else run.weights


def _comparison(
    runs: Sequence[RunRecord],
    reference: Sequence[str] | None,
    transform: Transform,
    telling: Sequence[str],
    costs: bool,
    found: Mapping[tuple[str, str], set[Protocol]],
) -> Comparison:
    """Return the comparison of these runs. `found`: the protocols of each data set and backbone."""
    kept, sets, notes = comparable(runs)
    methods = sorted({run.method for run in kept}, key=rank)
    metric = runs[0].metric
    images = {f"test/{metric.name}": max(run.images["test"] for run in kept)}
    images |= {f"ood/{name}/{metric.name}": sum(counts.values()) for name, counts in sets.items()}
    images[f"{MEAN}/{metric.name}"] = sum(images[f"ood/{name}/{metric.name}"] for name in sets)
    judges = tuple(methods if reference is None else reference)
    points = [run.metrics for run in kept if run.method in judges]
    unknown = [f"no run of {name}{nearest(name, methods)}" for name in judges if name not in methods]
    lines: dict[str, FittedLine] = {}
    no_line: dict[str, str] = {}
    targets = [*(f"ood/{name}" for name in sets), *([MEAN] if sets else [])]
    for target in targets if metric == ACCURACY else []:  # the lines are of accuracies
        try:
            lines[target] = _line(points, f"{target}/accuracy", images, transform)
        except ValueError as error:
            no_line[target] = "; ".join([str(error), *unknown])
    cells = [cell(name, alike) for method in methods for name, alike in _labelled(kept, method, telling).items()]
    rows = [row for method_cell in cells for row in _rows(method_cell, lines)]
    first = kept[0]
    data, backbone, protocol_name = first.data, backbone_label(first), protocol(first)
    return Comparison(
        backbone=backbone,
        data=data,
        protocol=protocol_name,
        metric=first.metric,
        title=titled(f"{data}, {backbone}", protocol_name, found[data, backbone]),
        source=first.source,
        sets=sets,
        images=images,
        rows=tuple(rows),
        lines=lines,
        no_line=no_line,
        transform=transform,
        reference="all methods" if reference is None else ", ".join(name for name in judges if name in methods),
        costs=costs,
        notes=(*notes, *(f"reference: {said}" for said in unknown if lines)),
    )


def rank(method: str) -> tuple[int, str]:
    """Return the sort key of a method: linear, then full, then the others by name."""
    return _FIRST.get(method, len(_FIRST)), method


def telling_keys(runs: Sequence[RunRecord], row_keys: Sequence[str]) -> list[str]:
    """Return the keys of `row_keys` that have several values among `runs`."""
    return [key for key in row_keys if len({_value(run, key) for run in runs} - {None}) > 1]


def unknown_keys(runs: Sequence[RunRecord], row_keys: Sequence[str]) -> list[str]:
    """Return a message for each key of `row_keys` that none of the runs has, with the nearest that one has."""
    known = sorted({key for run in runs for key in (*run.choices, *run.setting)})
    return [
        f"task.rows: no run has {key}{nearest(key, known)}"
        for key in row_keys
        if all(_value(run, key) is None for run in runs)
    ]


def label(run: RunRecord, telling: Sequence[str]) -> str:
    """Return the run's method, and the values that distinguish its row from others."""
    return ", ".join(filter(None, [run.method, *(_value(run, key) for key in telling)]))


def _value(run: RunRecord, key: str) -> str | None:
    """Return the run's option or value of `key`, as text; None where it has none."""
    if "." not in key:
        return run.choices.get(key)
    return f"{key.rpartition('.')[2]}={json.dumps(run.setting[key])}" if key in run.setting else None


def _labelled(runs: Sequence[RunRecord], method: str, telling: Sequence[str]) -> dict[str, list[RunRecord]]:
    labelled: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.method == method:
            labelled.setdefault(label(run, telling), []).append(run)
    return dict(sorted(labelled.items()))


def _line(points: Sequence[Scores], metric: str, images: Counts, transform: Transform) -> FittedLine:
    """Fit the line through the points that have the metric. ValueError where these are too few."""
    scored = [scores for scores in points if metric in scores]
    return fit(
        [scores[ID] for scores in scored],
        [scores[metric] for scores in scored],
        id_images=images[ID],
        ood_images=images[metric],
        transform=transform,
    )


def _rows(method_cell: MethodCell, lines: Mapping[str, FittedLine]) -> list[ComparisonRow]:
    """Return the rows of the head alone, of the method, and of the interpolated weights."""
    everything = [run for setting in method_cell.settings for run in setting.runs]
    chosen = method_cell.chosen.runs if method_cell.chosen else ()
    said = _said(method_cell)
    parameters = (*chosen, *everything)[0].parameters
    size = parameters["method"] + parameters["head"]

    def judged(found: Iterable[Scores]) -> tuple[Scores, ...]:
        return tuple({**scores, **_robustness(scores, lines)} for scores in found)

    rows: list[ComparisonRow] = []
    if any(name.startswith(_PROBE) for run in everything for name in run.metrics):
        scores, all_scores = (judged(map(_probe, runs)) for runs in (chosen, everything))
        rows.append(
            ComparisonRow(f"{method_cell.method}: probe", method_cell, said, parameters["head"], scores, all_scores)
        )
    scores, all_scores = (judged(run.metrics for run in runs) for runs in (chosen, everything))
    rows.append(ComparisonRow(method_cell.method, method_cell, said, size, scores, all_scores))
    between = [run for run in chosen if run.alpha is not None]
    if between:
        alphas = ", ".join(f"{alpha:g}" for alpha in sorted({run.alpha for run in between}))
        scores = judged(run.curve[run.alpha] for run in between)
        rows.append(
            ComparisonRow(
                f"{method_cell.method}, alpha={alphas}", method_cell, said, size, scores, (), is_interpolated=True
            )
        )
    return rows


def _said(method_cell: MethodCell) -> str:
    """Return how the setting was chosen; empty where only one was tried."""
    several = len(method_cell.settings)
    if method_cell.chosen is None:
        return f"none chosen of {several}"
    return f"{method_cell.chosen.label} (of {several})" if several > 1 else ""


def _probe(run: RunRecord) -> dict[str, float]:
    """Return the metrics of the first phase's head, under the names of a run's own metrics."""
    return {name.removeprefix(_PROBE): value for name, value in run.metrics.items() if name.startswith(_PROBE)}


def _robustness(scores: Scores, lines: Mapping[str, FittedLine]) -> dict[str, float]:
    """Return the effective robustness on each target whose accuracy a line predicts."""
    return {
        f"{target}/effective_robustness": scores[f"{target}/accuracy"] - line.predict(scores[ID])
        for target, line in lines.items()
        if ID in scores and f"{target}/accuracy" in scores
    }
