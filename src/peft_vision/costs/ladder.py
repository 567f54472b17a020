"""This module makes the table of a comparison: the forward pass, the probe, the other methods by the time of a step in
forward passes, and full fine-tuning."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from peft_vision.costs.measure import Failure, Measured
from peft_vision.costs.setting import FULL

FORWARD = "forward pass"
_PLACES = {FORWARD: 0, "linear": 1, FULL: 3}  # the others lie between the probe and full fine-tuning
_COLUMNS = (
    "method",
    "parameters",
    "of the head",
    "step, ms",
    "/ forward",
    "/ full",
    "memory, MiB",
    "on the store, ms",
    "/ forward",
)
_FAULT = "not measured"

Outcome = Measured | Failure


def ladder(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Return a record of each outcome, ready for JSON, in the table's order; failures come last. `of_forward`: the time
    of a step divided by that of the forward pass in the same process; `of_full`: `of_forward` divided by that of full
    fine-tuning."""
    full = _per_forward(outcomes[FULL])
    records = [_record(name, outcome, full) for name, outcome in outcomes.items()]
    return sorted(records, key=_order)


def rich_table(records: list[Mapping[str, Any]]) -> Table:
    """Return the table for a terminal."""
    table = Table.grid(padding=(0, 2, 0, 0))
    columns = _columns(records)
    for column in columns:
        table.add_column(justify="left" if column in ("method", _FAULT) else "right", no_wrap=column != _FAULT)
    table.add_row(*columns)
    for record in records:
        table.add_row(*_cells(record))
    return table


def markdown_table(records: list[Mapping[str, Any]]) -> str:
    """Return the table in Markdown."""
    columns = _columns(records)
    rows = [columns, ["---", *["---:"] * (len(columns) - 1)], *([*_cells(record)] for record in records)]
    width = len(columns)
    lines = ([cell.replace("|", "\\|") for cell in row] + [""] * (width - len(row)) for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _columns(records: list[Mapping[str, Any]]) -> list[str]:
    return [*_COLUMNS, *([_FAULT] if any("reason" in record for record in records) else [])]


def _per_forward(outcome: Outcome) -> float | None:
    measured = isinstance(outcome, Measured) and "step" in outcome.seconds
    return outcome.seconds["step"] / outcome.seconds["forward"] if measured else None


def _record(name: str, outcome: Outcome, full: float | None) -> dict[str, Any]:
    record = {"method": name, **asdict(outcome)}
    if isinstance(outcome, Failure):
        return record
    step, stored, forward = _per_forward(outcome), outcome.seconds.get("stored_step"), outcome.seconds["forward"]
    return {
        **record,
        "of_forward": step,
        "of_full": step / full if step and full else None,
        "stored_of_forward": stored / forward if stored else None,
    }


def _order(record: Mapping[str, Any]) -> tuple[bool, int, float]:
    place = _PLACES.get(record["method"], 2)
    return "reason" in record, place, 0.0 if "reason" in record else record["of_forward"] or 0.0


def _cells(record: Mapping[str, Any]) -> list[str]:
    """Return the cells of a record in the order of the columns; blank where a figure has no meaning."""
    name = record["method"]
    if "reason" in record:
        return [name, *[""] * (len(_COLUMNS) - 1), record["reason"]]
    parameters, seconds = record["parameters"], record["seconds"]
    alone = name == FORWARD
    return [
        name,
        "" if alone else f"{parameters['method']:,}",
        "" if alone else f"{parameters['head']:,}",
        _milliseconds(seconds["forward" if alone else "step"]),
        _ratio(1.0 if alone else record["of_forward"]),
        _ratio(record["of_full"]),
        f"{record['memory_mib']:,.1f}",
        _milliseconds(seconds.get("stored_step")),
        _ratio(record["stored_of_forward"]),
    ]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:,.1f}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
