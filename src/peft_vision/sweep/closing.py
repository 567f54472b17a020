"""This module ends a sweep: it reports on all runs in the folders of its runs, and mirrors the report."""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from statistics import fmean

from peft_vision.core.identity import digest
from peft_vision.report.comparison import ReportContent, compare
from peft_vision.report.options import Options
from peft_vision.runs.attempt import mirrored_as
from peft_vision.sweep.point import PointResult
from peft_vision.tracker.trackers import Log, Tracker


def close(ended: Sequence[PointResult], options: Options | None, name: str, *, is_news: bool) -> None:
    """Write the report of a sweep and mirror it. `options`: of the report; there is none with None, or if no run was
    tested. `name`: the sweep's name; `is_news`: whether the sweep has runs that the mirror may lack. An agent that
    waits for the sweep receives its mean metrics in any case."""
    done = [outcome for outcome in ended if outcome.result is not None]
    if not done:
        return
    tested = [outcome for outcome in done if "test/accuracy" in outcome.result["metrics"]]
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
    with tracker.open(
        run_id=mirrored_as(digest({"sweep": name}), folder, anew=False),
        name=name,
        group=name,
        job_type="sweep",
        tags=["sweep"],
        config={"runs": str(folder.parent)},
        folder=folder,
    ) as log:
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
    metrics = [outcome.result["metrics"] for outcome in ended]
    shared = [key for key in metrics[0] if all(isinstance(run_metrics.get(key), Real) for run_metrics in metrics)]
    return {key: fmean(run_metrics[key] for run_metrics in metrics) for key in shared}
