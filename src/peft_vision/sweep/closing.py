"""The end of a sweep: the report of all runs that lie beside its own, and its mirror."""

from collections.abc import Sequence
from pathlib import Path

from peft_vision.identity import digest
from peft_vision.report.comparison import Report, compare
from peft_vision.report.options import Options
from peft_vision.sweep.point import Ended
from peft_vision.tracker import Tracker


def close(ended: Sequence[Ended], options: Options, name: str, *, is_news: bool) -> None:
    """Nothing where nothing was tested. `name`: of the sweep; `is_news`: whether the mirror has not seen all of it."""
    tested = [its for its in ended if its.result is not None and "test/accuracy" in its.result["metrics"]]
    if not tested:
        return
    folders = list(dict.fromkeys(its.point.folder().parent for its in tested))
    report = compare(folders, folders[0] / "report", options)
    if is_news:
        mirror(report, tested[0].point.experiment.tracker, name, folders[0] / "report")


def mirror(report: Report, tracker: Tracker, name: str, folder: Path) -> None:
    """The leaderboard and the pictures, as a run of their own in the sweep's group; the same sweep again goes on with
    it."""
    with tracker.open(
        run_id=digest({"sweep": name}),
        name=name,
        group=name,
        job_type="sweep",
        tags=["sweep"],
        config={"runs": str(folder.parent)},
        folder=folder,
    ) as log:
        if report.rows:
            columns = list(report.rows[0])
            log.table("leaderboard", columns, [[row[column] for column in columns] for row in report.rows])
        log.pictures({what: file for what, file in report.pictures.items() if file.suffix == ".png"})
