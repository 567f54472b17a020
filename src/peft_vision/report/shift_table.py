"""This module makes the table of a comparison, for a terminal, as Markdown and as CSV: a row for each method, with its
figures in and out of distribution as mean ± standard deviation over seeds (n - 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from peft_vision.core.output import csv_text
from peft_vision.report.choose import RULE
from peft_vision.report.id_ood import ID, MEAN, Comparison, ComparisonRow, Statistic
from peft_vision.report.terminal import tables

_MISSING = "-"
_WORDS = ("method", "setting")  # columns that hold no figures
_PLACES = 2  # after the decimal point of a percentage


@dataclass(frozen=True)
class ShiftColumn:
    """A column of figures. `unit`: percent, of a fraction; points, of a difference of fractions; digits: 3 significant
    ones."""

    heading: str
    metric: str
    unit: Literal["percent", "points", "digits"]


def columns(comparison: Comparison) -> list[ShiftColumn]:
    """Return the columns for which some row has a statistic."""
    sets = [ShiftColumn(name, f"ood/{name}/accuracy", "percent") for name in comparison.sets]
    every = [
        ShiftColumn("ID val", "val/accuracy", "percent"),
        ShiftColumn("ID test", ID, "percent"),
        *sets,
        ShiftColumn("OOD mean", f"{MEAN}/accuracy", "percent"),
        ShiftColumn("OOD worst", "ood/worst/accuracy", "percent"),
        ShiftColumn("effective robustness", f"{MEAN}/effective_robustness", "points"),
        ShiftColumn("feature distance ID", "test/feature_distance", "digits"),
        ShiftColumn("feature distance OOD", f"{MEAN}/feature_distance", "digits"),
        ShiftColumn("calibration error ID", "test/calibration_error", "percent"),
        ShiftColumn("calibration error OOD", f"{MEAN}/calibration_error", "percent"),
    ]
    if comparison.costs:
        every += [
            ShiftColumn("state, MiB", "cost/state_mib", "digits"),
            ShiftColumn("gradients, MiB", "cost/gradient_mib", "digits"),
            ShiftColumn("peak memory, MiB", "cost/peak_mib", "digits"),
            ShiftColumn("training, s", "cost/train_seconds", "digits"),
        ]
    return [column for column in every if any(row.statistic(column.metric) for row in comparison.rows)]


def rich_tables(comparison: Comparison, *, width: int) -> list[Table]:
    """Return tables for a terminal: as many columns side by side as fit into `width`, each table with the methods."""
    return tables(_grid(comparison), words=_WORDS, width=width)


def markdown(comparison: Comparison) -> str:
    """Return the table as Markdown, with the remarks below it."""
    heading, *lines = zip(*_grid(comparison), strict=True)
    rows = [heading, ["---" if name in _WORDS else "---:" for name in heading], *lines]
    table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
    notes = "".join(f"- {note}\n" for note in remarks(comparison))
    return f"## {comparison.title}\n\n{comparison.source}\n\n{table}\n{notes}"


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """Return all comparisons in one CSV table: the mean, standard deviation and seeds of each figure, as fractions."""
    named = {column.metric: None for comparison in comparisons for column in columns(comparison)}
    figures = [f"{metric} {part}" for metric in named for part in ("mean", "std", "seeds")]
    rows: list[list[object]] = [["data", "backbone", "protocol", "method", "setting", "parameters", *figures]]
    for comparison in comparisons:
        for row in comparison.rows:
            found = [_parts(row.statistic(metric)) for metric in named]
            start = [comparison.data, comparison.backbone, comparison.protocol, row.label, row.setting, row.parameters]
            rows.append([*start, *(part for parts in found for part in parts)])
    return csv_text(rows)


def remarks(comparison: Comparison) -> list[str]:
    """Return the remarks that a reader of the table needs."""
    cells = [row.cell for row in comparison.rows if row.label == row.cell.method]
    tried = ", ".join(f"{cell.method} {len(cell.settings)}" for cell in cells)
    points = (
        ", effective robustness in percentage points"
        if any(column.unit == "points" for column in columns(comparison))
        else ""
    )
    said = [
        f"accuracies and calibration errors in %{points}: mean ± standard deviation over seeds",
        f"setting: {RULE}; tried: {tried}",
        *(f"{cell.method}: {cell.undecided}" for cell in cells if cell.chosen is None),
        *(f"{cell.method}: chosen on test images" for cell in cells if cell.chosen and cell.chosen.on_test),
        *(f"{cell.method}: {cell.fewer} settings with fewer seeds did not compete" for cell in cells if cell.fewer),
    ]
    if MEAN in comparison.lines:
        line = comparison.lines[MEAN]
        sign, r2 = "-" if line.intercept < 0 else "+", "" if line.r2 is None else f", R² {line.r2:.3f}"
        said.append(
            f"effective robustness: OOD mean beyond {line.transform}(OOD) = {line.slope:.3f} {line.transform}(ID) "
            f"{sign} {abs(line.intercept):.3f}, through {line.points} runs of {comparison.reference} with "
            f"{100 * line.low:.2f} to {100 * line.high:.2f} % ID{r2}"
        )
    said += [f"no effective robustness: {reason}" for target, reason in comparison.no_line.items() if target == MEAN]
    if not comparison.sets:
        said.append("no run was scored out of distribution")
    return [*said, *comparison.notes]


def _grid(comparison: Comparison) -> list[list[str]]:
    """Return the texts of the table by column, the heading first."""
    rows = comparison.rows
    grid = [["method", *(row.label for row in rows)], ["setting", *(row.setting or _MISSING for row in rows)]]
    grid.append(["seeds", *(str(_seeds(row)) for row in rows)])
    grid.append(["parameters", *(f"{row.parameters:,}" for row in rows)])
    for column in columns(comparison):
        grid.append([column.heading, *(_text(row.statistic(column.metric), column, _seeds(row)) for row in rows)])
    return grid


def _seeds(row: ComparisonRow) -> int:
    return len(row.cell.chosen.runs) if row.cell.chosen else 0


def _text(statistic: Statistic | None, column: ShiftColumn, seeds: int) -> str:
    """Return text such as "97.31 ± 0.20", with the number of seeds where some are missing."""
    if statistic is None:
        return _MISSING
    factor = 1 if column.unit == "digits" else 100
    mean, places = factor * statistic.mean, _significant(statistic.mean) if column.unit == "digits" else _PLACES
    text = f"{mean:+.{places}f}" if column.unit == "points" else f"{mean:.{places}f}"
    if statistic.std is not None:
        text += f" ± {factor * statistic.std:.{places}f}"
    return text if len(statistic.values) == seeds else f"{text} ({len(statistic.values)} of {seeds})"


def _significant(value: float, digits: int = 3) -> int:
    """Return the number of decimal places that show `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return digits
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def _parts(statistic: Statistic | None) -> tuple[float | None, float | None, int]:
    return (None, None, 0) if statistic is None else (statistic.mean, statistic.std, len(statistic.values))
