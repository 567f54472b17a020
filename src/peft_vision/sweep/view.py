"""This module shows the progress of a sweep: a line for each run that ends and, on a terminal, a table of the runs in
progress."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Self

from pydantic import Field
from rich.live import Live
from rich.table import Table
from rich.text import Text

from peft_vision.core.config import Pruned
from peft_vision.core.guide import fault
from peft_vision.core.output import Console
from peft_vision.core.progress import clock, terminal
from peft_vision.core.records import LINES, Record, Unreadable, parse_json, read_bytes, validated
from peft_vision.runs.run import is_epoch
from peft_vision.sweep.point import Point, PointResult

_FRAMES_PER_SECOND = 2
_SHOWN = 12  # most running runs in the table


class _Row(Record, extra="allow"):
    epoch: Annotated[int, Field(ge=1, le=10**9)]
    __pydantic_extra__: dict[str, float | str] = Field(init=False)


class View:
    """A display that is told of each run that starts or ends. `of`: what the points belong to, if it is not the
    sweep. `total`: how many of the points will end; None: all. Of points that are one run, one does."""

    def __init__(self, points: Sequence[Point], of: str = "", *, total: int | None = None) -> None:
        self._points = points
        self._total = len(points) if total is None else total
        self._of = f" of {of}" if of else ""
        self._running: dict[int, float] = {}  # start time by the point's number
        self._ended: dict[int, PointResult] = {}
        self._skipped = 0
        self._best: tuple[float, str] | None = None
        self._wide = max((len(point.label) for point in points), default=0)
        self._console = Console(soft_wrap=True)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._began = monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def started(self, number: int) -> None:
        self._running[number] = monotonic()
        if self._live is None and (console := terminal()) is not None:
            self._live = Live(
                get_renderable=self._table, console=console, refresh_per_second=_FRAMES_PER_SECOND, transient=True
            )
            self._live.start()

    def ended(self, number: int, outcome: PointResult, *, skipped: bool) -> None:
        """Print how a run ended; `skipped`: it had been done before."""
        since = self._running.pop(number, None)
        self._ended[number] = outcome
        self._skipped += skipped
        rank = validation(outcome)
        if rank is not None and (self._best is None or rank > self._best[0]):
            metric = outcome.result.metric
            self._best = (rank, f"{metric.shown(metric.rank(rank))} ({outcome.point.label})")
        word = _word(outcome, skipped=skipped)
        figures = fault(outcome.fault).splitlines()[0] if outcome.fault else _figures(outcome)
        took = "" if since is None else f"  {clock(monotonic() - since)}"
        place = f"run {len(self._ended):{len(str(self._total))}}/{self._total}{self._of}  "
        if self._of and self._total == 1:  # its label is enough
            place = ""
        line = f"{place}{word:6}  {outcome.point.label:{self._wide}}  {figures}{took}".rstrip()
        self._say(line if self._live or skipped else f"{line}{self._outlook()}")

    def _say(self, line: str) -> None:
        (self._live.console if self._live else self._console).print(
            Text(line), style="red" if "  failed  " in line else ""
        )

    def _outlook(self) -> str:
        left = self._seconds_left()
        return "" if left is None else f"  ({clock(left)} left)"

    def _seconds_left(self) -> float | None:
        """Estimate the seconds left from the runs of this sweep so far, unfinished ones counted in part; None if none
        are left or too little is done."""
        finished = len(self._ended) - self._skipped
        done = finished + sum(fraction for fraction, _ in map(self._standing, self._running))
        open_ = self._total - len(self._ended)
        if not open_ or done < 0.05:
            return None
        return (monotonic() - self._began) / done * (open_ - (done - finished))

    def _standing(self, number: int) -> tuple[float, str]:
        """Return the fraction of a run that is done, and its progress in words."""
        experiment = self._points[number].experiment
        row = None if experiment is None else _last_row(experiment.run.folder / "metrics.jsonl")
        if row is None:
            return 0.0, "begins"
        epoch, epochs = _progress(row, experiment.trainer.epochs)
        words = f"epoch {epoch}/{epochs}"
        metric = experiment.objective.metric
        if isinstance(value := row.get(f"val/{metric.name}"), float | int):
            words += f"  val {metric.shown(value)}"
        return epoch / epochs, words

    def _table(self) -> Table:
        failed = sum(_word(outcome, skipped=False) == "failed" for outcome in self._ended.values())
        parts = [f"{len(self._ended) - failed} of {self._total} runs{self._of} done"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{len(self._running)} running"]
        parts += [f"best val {self._best[1]}"] if self._best else []
        left = self._seconds_left()
        parts += [] if left is None else [f"{clock(left)} left"]
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True)
        for number in list(self._running)[:_SHOWN]:
            words = self._standing(number)[1]
            table.add_row(
                Text(self._points[number].label), Text(words), Text(clock(monotonic() - self._running[number]))
            )
        if len(self._running) > _SHOWN:
            table.add_row(f"and {len(self._running) - _SHOWN} more")
        whole = Table.grid()
        whole.add_row(Text(", ".join(parts), style="bold"))
        whole.add_row(table)
        return whole

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _progress(row: Mapping[str, Any], each: int) -> tuple[int, int]:
    """Return the epoch that a run is at, and how many it has at least. `each`: epochs of one phase. Rows of a run of
    several phases, most often two, name theirs, and their epochs go on counting."""
    if "phase" not in row:
        return int(row["epoch"]), max(each, int(row["epoch"]))
    epoch = int(row["epoch"]) if is_epoch(row) else each  # a solver's settings come at the end of its phase
    return epoch, each * max(2, -(-epoch // each))


def _word(outcome: PointResult, *, skipped: bool) -> str:
    if outcome.fault is not None:
        return "pruned" if isinstance(outcome.fault, Pruned) else "failed"
    return "before" if skipped else "done"


def validation(outcome: PointResult) -> float | None:
    """Return the rank of the validation metric, by which points are compared; None if there is none."""
    return None if outcome.result is None else outcome.result.rank("val")


def _figures(outcome: PointResult) -> str:
    if outcome.result is None:
        return ""
    metrics, metric = outcome.result.metrics, outcome.result.metric
    found = {split: metrics[name] for split in ("val", "test") if (name := f"{split}/{metric.name}") in metrics}
    return "  ".join(f"{split} {metric.shown(value)}" for split, value in found.items())


def _last_row(path: Path) -> dict[str, float] | None:
    """Return the last valid line of a run's metrics, or None if there is none."""
    try:
        lines = read_bytes(path, largest=LINES.size).splitlines() if path.is_file() else []
    except Unreadable:  # the view then shows the run as one that has not begun
        return None
    for line in reversed(lines):
        try:
            row = parse_json(line, path, LINES)
            return validated(row, path, _Row) and row
        except Unreadable:
            continue
    return None
