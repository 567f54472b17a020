"""This module turns a comparison into a JSON record: every metric of a row, and every setting's validation accuracy."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from peft_vision.report.id_ood import Comparison, ComparisonRow


def record(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values."""
    return {
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
        "metrics": {metric: _finite(asdict(row.statistic(metric))) for metric in metrics},
        "tried": tried,
    }


def _finite(statistic: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistic with None for NaN and infinity, which JSON does not have."""
    mean, std, values = statistic["mean"], statistic["std"], statistic["values"]
    plain = [None if value is None or not math.isfinite(value) else value for value in (mean, std, *values)]
    return {"mean": plain[0], "std": plain[1], "values": plain[2:]}
