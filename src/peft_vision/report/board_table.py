"""This module formats a leaderboard for a terminal, and as tidy rows: one for each method and column."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from peft_vision.core.output import csv_of_records
from peft_vision.report.board_text import absent, fewer_seeds, figure, interval, parameters, tried
from peft_vision.report.leaderboard import COSTS, BoardEntry, BoardLine, Leaderboard
from peft_vision.report.terminal import tables

_MARKS = {"best": "*", "tie": "≈"}
ON_TEST = "‡"


def board_tables(board: Leaderboard, *, width: int) -> list[Table]:
    grid = [
        ["", *(str(place + 1) for place in range(len(board.lines)))],
        ["method", *(f"{line.method} {ON_TEST}" if line.on_test else line.method for line in board.lines)],
        ["settings tried", *map(tried, board.lines)],
        ["parameters", *map(parameters, board.lines)],
    ]
    for number, column in enumerate(board.columns):
        grid.append([column.label, *(_text(line.entries[number], board) for line in board.lines)])
    return tables(grid, words=("method",), width=width, beside=2)


def board_rows(boards: Sequence[Leaderboard]) -> list[dict[str, Any]]:
    """Return tidy rows; accuracies are fractions, None is unknown."""
    return [
        _row(board, line, number) for board in boards for line in board.lines for number in range(len(board.columns))
    ]


def board_csv(boards: Sequence[Leaderboard]) -> str:
    return csv_of_records(board_rows(boards))


def _row(board: Leaderboard, line: BoardLine, number: int) -> dict[str, Any]:
    column, entry = board.columns[number], line.entries[number]
    score, verdict = entry.score, entry.verdict

    def cost(what: str) -> float | None:
        return line.cost(number, what) if score else None

    return {
        "backbone": board.backbone,
        "protocol": board.protocol,
        "method": line.method,
        "column": column.label,
        "kind": column.kind,
        "status": entry.status,
        "mean": score.mean if score else None,
        "std": score.std if score else None,
        "n": score.n if score else 0,
        "ci_low": score.low if score else None,
        "ci_high": score.high if score else None,
        "tie": verdict.kind if verdict else None,
        "p_holm": verdict.p if verdict else None,
        "pairs": verdict.pairs if verdict else None,
        "pairs_of": verdict.over if verdict else None,
        "data_sets": entry.covered,
        "of_data_sets": entry.of,
        "setting": entry.setting.label if entry.setting else None,
        "settings_tried": entry.tried or None,
        "selection": _selection(entry),
        "parameters": cost("parameters"),
        **{what.removeprefix("cost/"): cost(what) for what in COSTS},
    }


def _selection(entry: BoardEntry) -> str | None:
    """Return how the setting was chosen, None without a setting."""
    if entry.setting is None:
        return None
    return "chosen on test images" if entry.setting.on_test else "validation"


def _text(entry: BoardEntry, board: Leaderboard) -> str:
    """Return text such as "97.31 ± 0.20 [97.01 to 97.61] ≈"; every figure ends with room for a mark."""
    if entry.score is None:
        return f"{absent(entry)}  "
    between = interval(entry.score)
    mark = _MARKS.get(entry.verdict.kind, " ") if entry.verdict else " "
    parts = [figure(entry.score), f"[{between}]" if between else "", fewer_seeds(entry, board)]
    return f"{' '.join(filter(None, parts))} {mark}"
