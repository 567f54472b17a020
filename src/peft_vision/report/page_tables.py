"""This module builds the tables of the page: the leaderboard, what is left out, the chosen settings and every run."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from peft_vision.report.board_table import ON_TEST
from peft_vision.report.board_text import absent, fewer_seeds, figure, interval, parameters, tried
from peft_vision.report.collect import LeftOut
from peft_vision.report.finished import RunRecord
from peft_vision.report.leaderboard import COSTS, BoardEntry, BoardLine, Leaderboard
from peft_vision.report.markup import Heading, Markup, PageCell, element, joined, table
from peft_vision.report.significance import Verdict


def board_table(board: Leaderboard) -> Markup:
    headings = [Heading("method", True, ""), Heading("settings tried", False, ""), Heading("parameters", False, "")]
    headings += [Heading(column.label, False, "" if column.kind == "data" else "mean") for column in board.columns]
    rows = [
        [
            PageCell(f"{line.method} {ON_TEST}" if line.on_test else line.method, line.method, ""),
            PageCell(tried(line), line.tried[1], ""),
            PageCell(parameters(line), line.parameters, ""),
            *(_score(entry, board) for entry in line.entries),
        ]
        for line in board.lines
    ]
    return table(f"Test accuracy in %, {board.title}", headings, rows, classes="board")


def _score(entry: BoardEntry, board: Leaderboard) -> PageCell:
    if entry.score is None:
        return PageCell(element("span", absent(entry), class_=f"absent {entry.status.replace(' ', '-')}"), None, "")
    kind = entry.verdict.kind if entry.verdict else ""
    text = " ".join(filter(None, [figure(entry.score), fewer_seeds(entry, board)]))
    parts: list[str] = [element("span", text, class_="best" if kind == "best" else None)]
    mark = element("abbr", "≈", title=_tie(entry.verdict)) if kind == "tie" else ""
    parts.append(element("span", mark, class_="mark"))
    if between := interval(entry.score):
        parts.append(element("span", between, class_="between"))
    return PageCell(joined(parts), entry.score.mean, "")


def _tie(verdict: Verdict) -> str:
    """Return the tooltip that explains the mark of a tie."""
    over = {"seeds": "seeds", "data_sets": "data sets"}[verdict.over]
    return f"not significantly different from the best (p = {verdict.p:.2g}, {verdict.pairs} {over})"


def left_out_table(left_out: Sequence[LeftOut]) -> Markup:
    headings = [Heading("folder", True, ""), Heading("kind", True, ""), Heading("reason", True, "wrap")]
    rows = [
        [
            PageCell(run.folder, run.folder, "wrap"),
            PageCell(run.kind, run.kind, ""),
            PageCell(run.reason, run.reason, ""),
        ]
        for run in left_out
    ]
    return table("Folders that no figure comes from", headings, rows, classes="wide")


def absent_table(board: Leaderboard) -> Markup | None:
    """Return the table of the cells without a figure; None where all have one."""
    found = [
        (line, column, entry)
        for line in board.lines
        for column, entry in zip(board.columns, line.entries, strict=True)
        if column.kind == "data" and entry.score is None
    ]
    headings = [
        Heading("method", True, ""),
        Heading("data", True, ""),
        Heading("state", True, ""),
        Heading("reason", True, "wrap"),
    ]
    rows = []
    for line, column, entry in found:
        reason = _reason(board, line, column.label, entry)
        rows.append([PageCell(text, text, "") for text in (line.method, column.label, entry.status, reason)])
    return (
        table(f"Cells of the leaderboard without a figure, {board.title}", headings, rows, classes="wide")
        if rows
        else None
    )


def _reason(board: Leaderboard, line: BoardLine, label: str, entry: BoardEntry) -> str:
    problem = next(candidate for candidate in board.problems if candidate.label == label)
    if entry.status == "undecided":
        return problem.rows[line.method].cell.undecided
    attempts = [out.reason for out, _ in problem.attempts.get(line.method, ())]
    counts = Counter(attempts)
    reasons = [f"{count} run{'s' if count > 1 else ''} {reason}" for reason, count in counts.items()]
    return "; ".join(reasons) or "no run in these folders"


def settings_table(boards: Sequence[Leaderboard]) -> Markup:
    """Return the table of the chosen settings, each with the values by which it differs from the others tried."""
    headings = [
        Heading("method", True, ""),
        Heading("data", True, ""),
        Heading("chosen setting", True, "wrap"),
        Heading("tried", False, ""),
        Heading("val. accuracy, %", False, ""),
        Heading("seeds", True, ""),
        Heading("peak MiB", False, ""),
        Heading("training, s", False, ""),
    ]
    rows = [
        _setting(line, ", ".join(filter(None, [column.label, board.told])), entry)
        for board in boards
        for line in board.lines
        for column, entry in zip(board.columns, line.entries, strict=True)
        if entry.setting
    ]
    return table("Chosen settings", headings, rows, classes="wide")


def _setting(line: BoardLine, data: str, entry: BoardEntry) -> list[PageCell]:
    setting = entry.setting
    seeds = ", ".join(str(run.seed) for run in setting.runs)
    label = setting.label or "the only one"
    if setting.on_test:
        label += f" {ON_TEST} chosen on test images"
    costs = [[run.metrics[cost] for run in setting.runs if cost in run.metrics] for cost in COSTS]
    return [
        PageCell(line.method, line.method, ""),
        PageCell(data, data, ""),
        PageCell(label, label, ""),
        PageCell(f"{entry.tried:,}", entry.tried, ""),
        _percent(setting.validation),
        PageCell(seeds, seeds, ""),
        *(_number(sum(values) / len(values) if values else None) for values in costs),
    ]


def runs_table(runs: Sequence[RunRecord], out: Path) -> Markup:
    """Return the table of every run. `out`: the folder of the page, from which each run's folder is linked."""
    headings = [
        Heading("folder", True, ""),
        Heading("method", True, ""),
        Heading("data", True, ""),
        Heading("stage", True, ""),
        Heading("seed", False, ""),
        Heading("learning rate", False, ""),
        Heading("decay", False, ""),
        Heading("val, %", False, ""),
        Heading("test, %", False, ""),
        Heading("parameters", False, ""),
        Heading("peak MiB", False, ""),
        Heading("training, s", False, ""),
        Heading("test reads", False, ""),
        Heading("config", True, ""),
    ]
    return table("Every finished run", headings, [_run(run, out) for run in runs], classes="wide")


def _run(run: RunRecord, out: Path) -> list[PageCell]:
    where = quote(os.fsencode(Path(os.path.relpath(run.folder.absolute(), out.absolute())).as_posix()))
    size = run.parameters["method"] + run.parameters["head"]
    return [
        PageCell(element("a", run.name, href=f"{where}/"), run.name, ""),
        PageCell(run.method, run.method, ""),
        PageCell(run.data, run.data, ""),
        PageCell(stage := str(run.setting.get("data.stage", "all")), stage, ""),
        PageCell(str(run.seed), run.seed, ""),
        *(_number(run.setting.get(key)) for key in ("optimizer.lr", "optimizer.weight_decay")),
        _percent(run.metrics.get("val/accuracy")),
        _percent(run.metrics.get("test/accuracy")),
        PageCell(f"{size:,}", size, ""),
        *(_number(run.metrics.get(cost)) for cost in COSTS),
        PageCell(f"{run.test_reads}", run.test_reads, ""),
        PageCell(element("a", "config.yaml", href=f"{where}/config.yaml"), "", ""),
    ]


def _percent(value: float | None) -> PageCell:
    return PageCell("—", None, "") if value is None else PageCell(f"{100 * value:.2f}", value, "")


def _number(value: object) -> PageCell:
    """Return a cell with three significant digits, and all digits before the decimal point; a dash for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return PageCell("—", None, "")
    return PageCell(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}", value, "")
