"""This module ends a sweep: it reports on all runs in the folders of its runs, and mirrors the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from statistics import fmean

from peft_vision.core.config import Busy, ConfigError, Pruned
from peft_vision.core.identity import digest
from peft_vision.report.comparison import ReportContent, compare
from peft_vision.report.options import Options
from peft_vision.runs.run import mirrored_as
from peft_vision.sweep.point import PointResult
from peft_vision.tracker.several import forgiving
from peft_vision.tracker.trackers import Log, Tracker


def close(ended: Sequence[PointResult], options: Options | None, name: str, *, is_news: bool) -> None:
    """Write the report of a sweep and mirror it. `options`: of the report; there is none with None, or if no run was
    tested. `name`: the sweep's name; `is_news`: whether the sweep has runs that the mirror may lack. An agent that
    waits for the sweep receives its mean metrics in any case."""
    done = [outcome for outcome in ended if outcome.result is not None]
    if not done:
        return
    tested = [outcome for outcome in done if "test/loss" in outcome.result.metrics]
    reported = options is not None and bool(tested)
    folders = list(dict.fromkeys(outcome.point.folder().parent for outcome in (tested or done)))
    folder = folders[0] / "report"
    if reported:
        report = compare(folders, folder, options)
    tracker = done[0].point.experiment.tracker
    if tracker.is_awaited() or (reported and is_news):
        mirror(report if reported else None, tracker, name, folder, ended=done if tracker.is_awaited() else ())


def mirror(
    report: ReportContent | None, tracker: Tracker, name: str, folder: Path, *, ended: Sequence[PointResult] = ()
) -> None:
    """Log the leaderboard, the pictures and the mean metrics of the runs in `ended` as a tracker run of its own in the
    sweep's group; the same sweep of the same folder continues that tracker run."""
    folder.mkdir(parents=True, exist_ok=True)
    opens = partial(
        tracker.open,
        run_id=mirrored_as(digest({"sweep": name}), folder, anew=False),
        name=name,
        group=name,
        job_type="sweep",
        tags=["sweep"],
        config={"runs": str(folder.parent)},
        folder=folder,
    )
    with forgiving(opens, folder) as log:
        if report is not None:
            _show(report, log)
        if ended:
            log.summary(means(ended))


def _show(report: ReportContent, log: Log) -> None:
    if report.rows:
        columns = list(report.rows[0])
        log.table("leaderboard", columns, [[row[column] for column in columns] for row in report.rows])
    log.pictures({what: file for what, file in report.pictures.items() if file.suffix == ".png"})


def means(ended: Sequence[PointResult]) -> dict[str, float]:
    """Return the mean over the runs of each numeric metric that all of them have."""
    metrics = [outcome.result.metrics for outcome in ended]
    shared = [key for key in metrics[0] if all(isinstance(run_metrics.get(key), Real) for run_metrics in metrics)]
    return {key: fmean(run_metrics[key] for run_metrics in metrics) for key in shared}


class NotStarted(Exception):
    """The error of a point that was not started because the sweep stopped before."""


class FailedTrial(ConfigError):
    """The error of a run of a trial that failed. A search counts the trial, so task.retry does not try it again."""


@dataclass
class Limit:
    """A limit on the failures of a sweep. `most`: failures that stop the sweep, or None for no limit; `failures`: those
    so far, of runs that this command started; `held`: points that it will not start. ConfigError if `most` is not a
    positive integer."""

    most: int | None
    failures: int = 0
    held: int = 0

    def __post_init__(self) -> None:
        if self.most is not None and (type(self.most) is not int or self.most < 1):
            raise ConfigError(
                f"hydra.sweeper.max_failures: got {self.most!r}, should be a whole number from 1 on, or null"
            )

    def count(self, fault: Exception | None) -> None:
        """Count a fault as a failure, unless the run was pruned or another process is working on it."""
        self.failures += fault is not None and not isinstance(fault, Busy | Pruned)

    def is_reached(self) -> bool:
        return self.most is not None and self.failures >= self.most

    def said(self) -> list[str]:
        """Return a line about what stopped the sweep, or no lines if nothing did."""
        if not self.held:
            return []
        return [
            f"hydra.sweeper.max_failures={self.most} stopped the sweep: {self.held} points were not started; the same "
            "command goes on with them"
        ]
