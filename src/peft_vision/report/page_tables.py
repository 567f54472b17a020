"""This module makes the tables that only the page has: the chosen settings, what is missing or left out, and every
run."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from urllib.parse import quote

from peft_vision.core.table import ON_TEST, Cell, Column, Table
from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.collect import LeftOut
from peft_vision.report.finished import RunRecord
from peft_vision.report.leaderboard import COSTS, BoardEntry, BoardLine, Leaderboard

_COSTS = (Column("peak MiB"), Column("training, s"))


def left_out_table(left_out: Sequence[LeftOut]) -> Table:
    columns = [*_words("folder", "kind"), Column("reason", words=True, style="wrap")]
    rows = [[Cell(run.folder, run.folder, style="wrap"), *_texts(run.kind, run.reason)] for run in left_out]
    return Table("Runs excluded from the report", columns, rows, style="wide")


def absent_table(board: Leaderboard) -> Table | None:
    """Return the table of the cells without a figure; None where all have one."""
    rows = [
        _texts(line.method, column.label, entry.status, _reason(board, line, column.label, entry))
        for line in board.lines
        for column, entry in zip(board.columns, line.entries, strict=True)
        if column.kind == "data" and entry.score is None
    ]
    columns = [*_words("method", "data", "state"), Column("reason", words=True, style="wrap")]
    title = f"Cells of the leaderboard without a figure, {board.title}"
    return Table(title, columns, rows, style="wide") if rows else None


def _reason(board: Leaderboard, line: BoardLine, label: str, entry: BoardEntry) -> str:
    problem = next(candidate for candidate in board.problems if candidate.label == label)
    if entry.status == "undecided":
        return problem.rows[line.method].cell.undecided
    attempts = [out.reason for out, _ in problem.attempts.get(line.method, ())]
    counts = Counter(attempts)
    reasons = [f"{count} run{'s' if count > 1 else ''} {reason}" for reason, count in counts.items()]
    return "; ".join(reasons) or "no run in these folders"


def settings_table(boards: Sequence[Leaderboard]) -> Table:
    """Return the table of the chosen settings, each with the values by which it differs from the others tried."""
    columns = [*_words("method", "data"), Column("chosen setting", words=True, style="wrap")]
    columns += [
        Column("tried"),
        Column(f"val. {_heading(board.metric for board in boards)}"),
        *_words("seeds"),
        *_COSTS,
    ]
    rows = [
        _setting(line, ", ".join(filter(None, [column.label, board.protocol_words])), entry)
        for board in boards
        for line in board.lines
        for column, entry in zip(board.columns, line.entries, strict=True)
        if entry.setting
    ]
    return Table("Chosen settings", columns, rows, style="wide")


def seeds_table(runs: Sequence[RunRecord]) -> Table | None:
    """Return the table of the seeds that a grid trained in the same run; None where no run has any. All other tables
    have such a run with its own seed alone."""
    rows = [
        [
            *_texts(run.name, run.method, run.data, ", ".join(f"{row['seed']:g}" for row in run.of_seeds)),
            *(_over_seeds(run, f"{split}/{run.metric.name}") for split in ("val", "test")),
        ]
        for run in runs
        if run.of_seeds
    ]
    named = _heading(run.metric for run in runs if run.of_seeds)
    columns = [*_words("folder", "method", "data", "seeds"), Column(f"val, {named}"), Column(f"test, {named}")]
    title = "Seeds that trained in the same run, at its chosen setting: mean ± standard deviation (n - 1)"
    return Table(title, columns, rows, style="wide") if rows else None


def _over_seeds(run: RunRecord, name: str) -> Cell:
    values = [row[name] for row in run.of_seeds if name in row]
    if len(values) < 2:
        return Cell("—")
    return Cell(f"{run.metric.number(fmean(values))} ± {run.metric.number(stdev(values))}", fmean(values))


def _setting(line: BoardLine, data: str, entry: BoardEntry) -> list[Cell]:
    setting = entry.setting
    label = setting.label or "the only one"
    if setting.on_test:
        label += f" {ON_TEST} chosen on test images"
    return [
        *_texts(line.method, data, label),
        Cell(f"{entry.tried:,}", entry.tried),
        _score(setting.validation, setting.metric),
        *_texts(", ".join(str(run.seed) for run in setting.runs)),
        *(_number(_average([run.metrics[cost] for run in setting.runs if cost in run.metrics])) for cost in COSTS),
    ]


def runs_table(runs: Sequence[RunRecord], out: Path) -> Table:
    """Return the table of every run. `out`: the folder of the page, from which each run's folder is linked."""
    named = _heading((run.metric for run in runs), usual="%")
    figures = ("seed", "learning rate", "decay", f"val, {named}", f"test, {named}", "parameters")
    columns = [*_words("folder", "method", "data", "stage"), *map(Column, figures), *_COSTS]
    columns += [Column("test reads"), *_words("config")]
    return Table("Every finished run", columns, [_run(run, out) for run in runs], style="wide")


def _run(run: RunRecord, out: Path) -> list[Cell]:
    where = quote(os.fsencode(Path(os.path.relpath(run.folder.absolute(), out.absolute())).as_posix()))
    size = run.parameters["method"] + run.parameters["head"]
    return [
        Cell(run.name, run.name, link=f"{where}/"),
        *_texts(run.method, run.data, str(run.setting.get("data.stage", "all"))),
        Cell(str(run.seed), run.seed),
        *(_number(run.setting.get(key)) for key in ("optimizer.lr", "optimizer.weight_decay")),
        *(_score(run.metrics.get(f"{split}/{run.metric.name}"), run.metric) for split in ("val", "test")),
        Cell(f"{size:,}", size),
        *(_number(run.metrics.get(cost)) for cost in COSTS),
        Cell(f"{run.test_reads}", run.test_reads),
        Cell("config.yaml", link=f"{where}/config.yaml"),
    ]


def _words(*headings: str) -> list[Column]:
    return [Column(heading, words=True) for heading in headings]


def _texts(*texts: str) -> list[Cell]:
    return [Cell(text, text) for text in texts]


def _average(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _score(value: float | None, metric: Metric) -> Cell:
    return Cell("—") if value is None else Cell(metric.number(value), value)


def _heading(metrics: Iterable[Metric], usual: str = "accuracy, %") -> str:
    """Return the heading of a column of these metrics; `usual` where all are accuracy."""
    found = dict.fromkeys(metrics)
    if set(found) <= {ACCURACY}:
        return usual
    return " or ".join(f"{metric.words}{metric.unit}" for metric in found)


def _number(value: object) -> Cell:
    """Return a cell with three significant digits, and all digits before the decimal point; a dash for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return Cell("—")
    return Cell(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}", value)
