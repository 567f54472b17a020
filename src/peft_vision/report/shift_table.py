"""This module makes the table of a comparison, and a JSON record of all it is made from: a row for each method, with
its figures in and out of distribution as mean ± standard deviation over seeds (n - 1)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from peft_vision.core.table import Cell, Column, Table
from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.choose import rule_of
from peft_vision.report.id_ood import MEAN, Comparison, ComparisonRow, Statistic

_MISSING = "-"
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
    metric, unit = comparison.metric.name, "percent" if comparison.metric.is_fraction else "digits"
    sets = [ShiftColumn(name, f"ood/{name}/{metric}", unit) for name in comparison.sets]
    every = [
        ShiftColumn("ID val", f"val/{metric}", unit),
        ShiftColumn("ID test", f"test/{metric}", unit),
        *sets,
        ShiftColumn("OOD mean", f"{MEAN}/{metric}", unit),
        ShiftColumn("OOD worst", f"ood/worst/{metric}", unit),
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


def shift_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Return a table for each comparison. Their records have the same keys: the mean, standard deviation and seeds of
    each figure, as fractions."""
    metrics = dict.fromkeys(column.metric for comparison in comparisons for column in columns(comparison))
    return [_table(comparison, list(metrics)) for comparison in comparisons]


def _table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    found = columns(comparison)
    return Table(
        title=comparison.title,
        source=comparison.source,
        columns=[
            Column("method", words=True),
            Column("setting", words=True, style="wrap"),
            Column("seeds"),
            Column("parameters"),
            *(Column(column.heading) for column in found),
        ],
        rows=[
            [
                Cell(row.label, row.label),
                Cell(row.setting or _MISSING, row.setting),
                Cell(str(_seeds(row)), _seeds(row)),
                Cell(f"{row.parameters:,}", row.parameters),
                *(_cell(row.statistic(column.metric), column, _seeds(row)) for column in found),
            ]
            for row in comparison.rows
        ],
        notes=remarks(comparison),
        records=[_csv_record(comparison, row, metrics) for row in comparison.rows],
        style="shifts sticky",
    )


def _csv_record(comparison: Comparison, row: ComparisonRow, metrics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "data": comparison.data,
        "backbone": comparison.backbone,
        "protocol": comparison.protocol,
        "method": row.label,
        "setting": row.setting,
        "parameters": row.parameters,
    }
    for metric in metrics:
        statistic = row.statistic(metric)
        parts = (None, None, 0) if statistic is None else (statistic.mean, statistic.std, len(statistic.values))
        found |= {f"{metric} {part}": value for part, value in zip(("mean", "std", "seeds"), parts, strict=True)}
    return found


def remarks(comparison: Comparison) -> list[str]:
    """Return the remarks that a reader of the table needs."""
    cells = [row.cell for row in comparison.rows if row.label == row.cell.method]
    tried = ", ".join(f"{cell.method} {sum(setting.tried for setting in cell.settings)}" for cell in cells)
    points = (
        ", effective robustness in percentage points"
        if any(column.unit == "points" for column in columns(comparison))
        else ""
    )
    said = [
        f"{_figures(comparison.metric)}{points}: mean ± standard deviation over seeds",
        f"setting: {rule_of(comparison.metric)}; tried: {tried}",
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


def _figures(metric: Metric) -> str:
    """Return what the figures of a table are, in words."""
    if metric == ACCURACY:
        return "accuracies and calibration errors in %"
    return f"{metric.words}{' in %' if metric.is_fraction else ''}"


def _seeds(row: ComparisonRow) -> int:
    return len(row.cell.chosen.runs) if row.cell.chosen else 0


def _cell(statistic: Statistic | None, column: ShiftColumn, seeds: int) -> Cell:
    """Return text such as "97.31 ± 0.20", with the number of seeds where some are missing."""
    if statistic is None:
        return Cell(_MISSING)
    factor = 1 if column.unit == "digits" else 100
    mean, places = factor * statistic.mean, _significant(statistic.mean) if column.unit == "digits" else _PLACES
    text = f"{mean:+.{places}f}" if column.unit == "points" else f"{mean:.{places}f}"
    if statistic.std is not None:
        text += f" ± {factor * statistic.std:.{places}f}"
    known = len(statistic.values)
    value = statistic.mean if math.isfinite(statistic.mean) else None
    return Cell(text, value, count="" if known == seeds else f"({known} of {seeds})")


def _significant(value: float, digits: int = 3) -> int:
    """Return the number of decimal places that show `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return digits
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def record(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values: every metric of a row, and every setting's validation accuracy."""
    values = {
        "data": comparison.data,
        "backbone": comparison.backbone,
        "protocol": comparison.protocol,
        "source": comparison.source,
        "images": comparison.images,
        "sets": comparison.sets,
        "reference": comparison.reference,
        "lines": {target: asdict(line) for target, line in comparison.lines.items()},
        "no_line": comparison.no_line,
        "notes": comparison.notes,
        "rows": [_row_record(row) for row in comparison.rows],
    }
    return _finite(values)


def _row_record(row: ComparisonRow) -> dict[str, Any]:
    metrics = dict.fromkeys(metric for scores in row.scores for metric in scores)
    tried = [
        {"setting": setting.own, "seeds": [run.seed for run in setting.runs], "validation": setting.validation}
        for setting in row.cell.settings
    ]
    return {
        "method": row.label,
        "setting": row.cell.chosen.own if row.cell.chosen else None,
        "runs": [run.name for run in row.cell.chosen.runs] if row.cell.chosen else [],
        "parameters": row.parameters,
        "metrics": {metric: asdict(row.statistic(metric)) for metric in metrics},
        "tried": tried,
    }


def _finite(value: Any) -> Any:
    """Return a value, at any depth, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
