"""This module groups the runs of a report by backbone, data set and protocol: those that saw test images, those that
only tuned, and those that ended without a result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.choose import Protocol, Setting, cell, protocols
from peft_vision.report.collect import Attempt, LeftOut
from peft_vision.report.finished import RunRecord, is_tuning
from peft_vision.report.id_ood import AMOUNTS, Comparison, ComparisonRow, backbone_label, label, telling_keys
from peft_vision.report.options import Options

_STAGE = "data.stage"
_USES = (_STAGE, "data.augment", "data.resize", "data.crop")
"""How the images are used, not which they are."""


@dataclass(frozen=True, eq=False)
class TaskResults:
    """The runs on one data set from one backbone by one protocol, judged by one metric. `label`: of the data set,
    unique on the same backbone by the same protocol. `comparison`: None where no run saw test images. `tuning`,
    `attempts`: by method, as rows are labelled. `is_one_of_several_amounts`: another problem has the same data set with
    another number of images to train on."""

    data: str
    backbone: str
    protocol: Protocol
    metric: Metric
    comparison: Comparison | None
    tuning: dict[str, list[RunRecord]] = field(default_factory=dict)
    attempts: dict[str, list[tuple[LeftOut, Attempt]]] = field(default_factory=dict)
    label: str = ""
    is_one_of_several_amounts: bool = False

    @cached_property
    def rows(self) -> dict[str, ComparisonRow]:
        """Return the rows of the methods themselves, without probes and interpolations."""
        rows = self.comparison.rows if self.comparison else ()
        return {row.label: row for row in rows if row.label == row.cell.method}

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys([*self.rows, *self.tuning, *self.attempts]))

    @cached_property
    def chosen(self) -> dict[str, Setting]:
        return {
            method: self._with_differences(method, row.cell.chosen)
            for method, row in self.rows.items()
            if row.cell.chosen
        }

    def _with_differences(self, method: str, chosen: Setting) -> Setting:
        """Return the setting with all values by which it differs from others, including those of runs that only
        tuned."""
        differing = {key for setting in self.candidates(method) for key in setting.own}
        values = chosen.runs[0].setting
        return replace(chosen, own={key: values[key] for key in values if key in differing or key in chosen.own})

    def candidates(self, method: str) -> tuple[Setting, ...]:
        """Return the settings among which one was chosen: those of runs that only tuned, where there are any."""
        if method in self.tuning:
            return cell(method, self.tuning[method]).settings
        return self.rows[method].cell.settings if method in self.rows else ()

    def tried(self, method: str) -> int:
        """Return how many settings were tried, as the sweep counted them, or as found here: failed ones included, and
        those that a solver or a grid tried within a run one by one."""
        chosen = self.chosen.get(method)
        if chosen and (counted := [run.choice.settings for run in chosen.runs if run.choice]):
            return max(counted)
        settings = {_key(setting.runs[0].setting): setting.tried for setting in self.candidates(method)}
        for _, attempt in self.attempts.get(method, ()):
            if attempt.setting:
                settings.setdefault(_key(attempt.setting), 1)
        return sum(settings.values())

    def why_none(self, method: str) -> Literal["undecided", "failed", "unfinished", "only tuned", "missing"]:
        """Return the reason why the method has no figure."""
        if method in self.rows:
            return "undecided"
        kinds = {run.kind for run, attempt in self.attempts.get(method, ()) if not is_tuning(attempt.setting)}
        if kinds:
            return "failed" if "failed" in kinds else "unfinished"
        return "only tuned" if method in self.tuning or method in self.attempts else "missing"

    def group(self, wanted: Mapping[str, tuple[str, ...]] | None) -> str:
        """Return the name of the group that the data set belongs to; empty for none. `wanted` replaces the groups in
        runs."""
        if wanted is None:
            return next((run.group for run in self._runs() if run.group), "")
        return next((group for group, names in wanted.items() if {self.label, self.data} & set(names)), "")

    @cached_property
    def tested(self) -> list[RunRecord]:
        """Return the runs that have test figures."""
        rows = self.comparison.rows if self.comparison else ()
        return [run for row in rows for setting in row.cell.settings for run in setting.runs]

    @cached_property
    def designs(self) -> set[str]:
        """Return the designs of the runs that have test figures."""
        return {_design(run.setting) for run in self.tested}

    @cached_property
    def images(self) -> set[str]:
        """Return which images the same runs are on, as text."""
        return {_images(run.setting) for run in self.tested}

    @property
    def first_setting(self) -> Mapping[str, Any]:
        """Return the setting of one of its runs; empty where none is known."""
        attempted = (attempt.setting for found in self.attempts.values() for _, attempt in found)
        settings = (*(run.setting for run in self._runs()), *attempted)
        return next((setting for setting in settings if setting), {})

    def _runs(self) -> list[RunRecord]:
        return [*self.tested, *(run for runs in self.tuning.values() for run in runs)]


def problems(
    compared: Sequence[Comparison], runs: Sequence[RunRecord], left_out: Sequence[LeftOut], options: Options
) -> list[TaskResults]:
    """Return the problems in the order of `compared`, followed by those on which no run has been tested."""
    telling = telling_keys([run for run in runs if not run.tunes], options.rows)
    found = [TaskResults(one.data, one.backbone, one.protocol, one.metric, one) for one in compared]
    for run in runs:
        if run.tunes:
            problem = _home(found, run.data, backbone_label(run), run.setting, run.metric)
            problem.tuning.setdefault(label(run, telling), []).append(run)
    for out in left_out:
        if (attempt := out.attempt) is not None:
            problem = _home(found, attempt.data, attempt.backbone, attempt.setting, None)
            problem.attempts.setdefault(_attempt_label(attempt, runs, telling), []).append((out, attempt))
    return [
        replace(
            problem,
            label=_unique_label(problem, found),
            is_one_of_several_amounts=bool(_differing_amounts(problem, found)),
        )
        for problem in found
    ]


def _home(
    found: list[TaskResults], data: str, backbone: str, setting: Mapping[str, Any], metric: Metric | None
) -> TaskResults:
    """Return the problem of a run without test figures: that of its data set, backbone and protocol, and of several the
    one with the same config of data; a new one, added to `found`, where there is none. `metric`: None if unknown."""
    names = (backbone, setting.get("backbone.name") if backbone == "timm" else backbone)
    alike = [problem for problem in found if problem.data == data and problem.backbone in names]
    alike = [problem for problem in alike if metric in (None, problem.metric)]
    for problem in alike:
        if _design(setting) in problem.designs:
            return problem
    wanted = protocols(setting)
    for name in wanted:
        if candidates := [problem for problem in alike if problem.protocol == name]:
            return next((problem for problem in candidates if _images(setting) in problem.images), candidates[0])
    known = {problem.protocol for problem in found}
    protocol = next((name for name in wanted if name in known), wanted[0])
    found.append(TaskResults(data, names[1] or backbone, protocol, metric or ACCURACY, None))
    return found[-1]


def _design(setting: Mapping[str, Any]) -> str:
    """Return the config's values of data and backbone as text."""
    return repr(sorted((key, value) for key, value in setting.items() if key.startswith(("data.", "backbone."))))


def _images(setting: Mapping[str, Any]) -> str:
    """Return the values that say which images of which data set a run is on, by weights of which name, as text."""
    of_images = {key: value for key, value in setting.items() if key.startswith("data.") and key not in _USES}
    return _design(of_images | {key: setting[key] for key in ("backbone.name",) if key in setting})


def _key(setting: Mapping[str, Any]) -> str:
    return repr(sorted((key, value) for key, value in setting.items() if key != _STAGE))


def _attempt_label(attempt: Attempt, runs: Sequence[RunRecord], telling: Sequence[str]) -> str:
    """Return the label of a finished run with the same classes and values, or the method where there is none."""
    alike = [run for run in runs if run.method == attempt.method and not run.tunes]
    for run in alike:
        keys = [f"{key}._target_" if "." not in key else key for key in telling]
        if all(run.setting.get(key) == attempt.setting.get(key) for key in keys):
            return label(run, telling)
    return attempt.method


def _unique_label(problem: TaskResults, found: Sequence[TaskResults]) -> str:
    """Return the label of a data set: its name, followed where several have that name on one backbone by one protocol
    by the number of images to train on, or by a number where they differ in something else."""
    alike = _namesakes(problem, found)
    if len(alike) == 1:
        return problem.data
    if amounts := _differing_amounts(problem, found):
        return ", ".join([problem.data, *(f"{key.removeprefix('data.')}={value}" for key, value in amounts.items())])
    return f"{problem.data} ({alike.index(problem) + 1})"


def _differing_amounts(problem: TaskResults, found: Sequence[TaskResults]) -> dict[str, Any]:
    """Return the amounts of images by which this problem differs from its namesakes; empty where these differ in
    something else too."""
    settings = [namesake.first_setting for namesake in _namesakes(problem, found)]
    without = {_images({key: value for key, value in setting.items() if key not in AMOUNTS}) for setting in settings}
    amounts = [tuple(setting.get(key) for key in AMOUNTS) for setting in settings]
    if len(without) > 1 or len(set(amounts)) < len(amounts):
        return {}
    return {
        key: problem.first_setting.get(key) for key in AMOUNTS if len({setting.get(key) for setting in settings}) > 1
    }


def _namesakes(problem: TaskResults, found: Sequence[TaskResults]) -> list[TaskResults]:
    """Return the problems of the same data set, backbone and protocol, this one among them."""
    same = (problem.data, problem.backbone, problem.protocol)
    return [other for other in found if (other.data, other.backbone, other.protocol) == same]
