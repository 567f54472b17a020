"""This module describes a point of a sweep before its run, and its outcome afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.config import Busy, ConfigError, build
from peft_vision.core.request import Request
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.served import Served
from peft_vision.shift.scoring import is_scored
from peft_vision.task.base import Task
from peft_vision.task.shown import is_settled


@dataclass(frozen=True)
class Point:
    """A point of a sweep, which is the command of one run. `overrides`: all overrides of the command; `label`: those
    that distinguish the point from the others. `experiment`: None if the task does not train. `retry`: whether a run
    that failed before is tried again."""

    overrides: tuple[str, ...]
    label: str
    experiment: Experiment | None
    retry: bool

    @classmethod
    def of(cls, overrides: Sequence[str], label: str, request: Request) -> "Point":
        """Return the point of a composed request. ConfigError for values that are invalid by themselves; checks that
        combine values come later."""
        task = build(request.config["task"], Task, "task")
        experiment = Experiment.of(request.config, request.choices) if task.trains else None
        return cls(tuple(overrides), label, experiment, retry=task.retries)

    def folder(self) -> Path | None:
        """Return the folder of the point's run, None for a point that trains nothing."""
        return None if self.experiment is None else self.experiment.run.folder

    def ended_before(self, served: Served) -> "PointResult | None":
        """Return the outcome of an earlier run of this point, or None if there is still something to do."""
        if self.experiment is None:
            return None
        run = self.experiment.run
        try:
            result = served.result(self.experiment)
            if result is not None:
                over = is_scored(self.experiment, result) and is_settled(self.experiment)
                return PointResult(self, result, None) if over else None
            failure = run.read_failure()
        except ConfigError as error:  # such as a damaged file, or images that have changed
            return PointResult(self, None, error)
        if failure is None or self.retry:
            return None
        return PointResult(self, None, ConfigError(f"failed before: {failure}"))

    def has_failed(self) -> bool:
        """Return whether the point's run has recorded a failure, which is tried again only with task.retry."""
        return self.experiment is not None and (self.experiment.run.folder / "failed.json").is_file()

    def ended(self, fault: Exception | None) -> "PointResult":
        """Return the outcome of the point, now that its process has ended."""
        try:
            result = None if self.experiment is None else self.experiment.run.read_result()
        except ConfigError as error:
            return PointResult(self, None, error)
        if fault is None and result is None and self.experiment is not None:
            fault = ConfigError(f"ended without a result; {self.experiment.run.folder}")
        return PointResult(self, None if fault else result, fault)


@dataclass(frozen=True)
class PointResult:
    """The outcome of a point. `result`: the record in the run's folder, None if there is none or the task does not
    train. `fault`: the error that it failed with, or None."""

    point: Point
    result: Mapping[str, Any] | None
    fault: Exception | None

    def is_busy(self) -> bool:
        """Return whether another process is working on the run, which a second launch can wait for."""
        return isinstance(self.fault, Busy) and self.point.experiment is not None


def labels(points: Sequence[Sequence[str]]) -> list[str]:
    """Return for each point the overrides that not all points share, or all for a single point; pruners are left
    out."""
    common = set.intersection(*map(set, points)) if len(points) > 1 else set()
    return [
        " ".join(word for word in point if word not in common and not word.startswith("task.pruner="))
        for point in points
    ]


def also_read(points: Sequence[Point]) -> list[str]:
    """Return the override that makes one pass of the backbone compute all that any of the runs reads, since a probe
    cannot know that a later run reads more than features. None is needed if all runs read the same, or if a command
    sets features.also."""
    trained = [point for point in points if point.experiment is not None]
    reads = {frozenset(point.experiment.method.reads()) for point in trained}
    is_set = any(word.partition("=")[0].lstrip("+") == "features.also" for point in trained for word in point.overrides)
    return [] if is_set or len(reads) < 2 else [f"features.also=[{','.join(sorted(frozenset.union(*reads)))}]"]
