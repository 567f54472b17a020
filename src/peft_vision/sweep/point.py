"""A point of a sweep, before its run and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.config import Busy, ConfigError, build
from peft_vision.experiment import Experiment
from peft_vision.request import Request
from peft_vision.served import Served
from peft_vision.shift.scoring import is_scored
from peft_vision.task.base import Task
from peft_vision.task.shown import is_settled
from peft_vision.task.train import Train


@dataclass(frozen=True)
class Point:
    """`overrides`: all that the command of its run says; `label`: those by which it differs from the others.
    `experiment`: None where the task is no training. `retry`: whether it is tried again where it failed."""

    overrides: tuple[str, ...]
    label: str
    experiment: Experiment | None
    retry: bool

    @classmethod
    def of(cls, overrides: Sequence[str], label: str, request: Request) -> "Point":
        """ConfigError where values are wrong one by one."""
        task = build(request.config["task"], Task, "task")
        trains = isinstance(task, Train)
        experiment = Experiment.of(request.config, request.choices) if trains else None
        return cls(tuple(overrides), label, experiment, retry=trains and task.retry is True)

    def folder(self) -> Path | None:
        """Return the folder of its run, None for a point that trains nothing."""
        return None if self.experiment is None else self.experiment.run.folder

    def ended_before(self, served: Served) -> "Ended | None":
        """How, where nothing is left to do about it."""
        if self.experiment is None:
            return None
        run = self.experiment.run
        try:
            result = served.result(self.experiment)
            if result is not None:
                over = is_scored(self.experiment, result) and is_settled(self.experiment)
                return Ended(self, result, None) if over else None
            failure = run.read_failure()
        except ConfigError as error:  # a file that is torn
            return Ended(self, None, error)
        if failure is None or self.retry:
            return None
        return Ended(self, None, ConfigError(f"failed before: {failure}"))

    def has_failed(self) -> bool:
        """Return whether its run has recorded a failure, so that it is not tried again unless asked to."""
        return self.experiment is not None and (self.experiment.run.folder / "failed.json").is_file()

    def ended(self, fault: Exception | None) -> "Ended":
        """Return the outcome of the point, now that its process has ended."""
        try:
            result = None if self.experiment is None else self.experiment.run.read_result()
        except ConfigError as error:
            return Ended(self, None, error)
        if fault is None and result is None and self.experiment is not None:
            fault = ConfigError(f"ended without a result; {self.experiment.run.folder}")
        return Ended(self, None if fault else result, fault)


@dataclass(frozen=True)
class Ended:
    """`result`: as in its run's folder, None where there is none or the task is no training. `fault`: why it failed."""

    point: Point
    result: Mapping[str, Any] | None
    fault: Exception | None

    def is_busy(self) -> bool:
        """Return whether another process is working on the run; this one can be told to wait for it."""
        return isinstance(self.fault, Busy) and self.point.experiment is not None


def labels(points: Sequence[Sequence[str]]) -> list[str]:
    """Return for each point the overrides that not all points share; all for a single point. Pruners are left out."""
    common = set.intersection(*map(set, points)) if len(points) > 1 else set()
    return [
        " ".join(word for word in point if word not in common and not word.startswith("task.pruner="))
        for point in points
    ]


def also_read(points: Sequence[Point]) -> list[str]:
    """Return the overrides that have one pass of the backbone compute whatever any of the runs reads: without them a
    probe cannot know that a later run reads more than its features."""
    trained = [point for point in points if point.experiment is not None]
    reads = {frozenset(point.experiment.method.reads()) for point in trained}
    told = any(word.partition("=")[0].lstrip("+") == "features.also" for point in trained for word in point.overrides)
    return [] if told or len(reads) < 2 else [f"features.also=[{','.join(sorted(frozenset.union(*reads)))}]"]
