"""This module prints the table that closes a tuning."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from rich.table import Table

from peft_vision.core.console import Console
from peft_vision.sweep.point import PointResult
from peft_vision.tuning.cells import Decision, Selection

_TITLES = {
    "validation": "chosen by validation; trained on training and validation images; tested once",
    "test": "chosen by test, as some papers do: no honest figures",
}
_COLUMNS = ("", "chosen", "of settings", "validation, %", "test, %", "seeds")
_WIDEST = 200


def print_decisions(results: Mapping[Decision, Sequence[PointResult]], selection: Selection, *, grid: bool) -> None:
    """Print a row for each cell, with the runs of the setting that won. `grid`: whether the settings came from a grid,
    so that a value at its edge is worth a note."""
    table = Table.grid(padding=(0, 3, 0, 0))
    for column in _COLUMNS:
        table.add_column(justify="left" if column in ("", "chosen") else "right", no_wrap=True)
    table.add_row(*_COLUMNS)
    for decision, runs in results.items():
        accuracies = [outcome.result["metrics"]["test/accuracy"] for outcome in runs if outcome.result is not None]
        validation = decision.accuracy if selection == "validation" else None
        table.add_row(
            decision.name,
            _chosen(decision),
            str(decision.settings),
            "" if validation is None else f"{100 * validation:.2f}",
            _mean_and_deviation(accuracies),
            str(len(accuracies)),
        )
    console = Console(width=_WIDEST)
    console.print(f"\n{_TITLES[selection]}")
    console.print(table)
    for decision in results if grid else ():
        for edge in decision.edges:
            console.print(f"note      {decision.name}: {edge}; a wider grid may hold a better one")


def _chosen(decision: Decision) -> str:
    if not decision.chosen:
        return "none: all failed"
    return " ".join(f"{key}={value}" for key, value in decision.values.items()) or "the only setting"


def _mean_and_deviation(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return ""
    deviation = f" ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * fmean(accuracies):.2f}{deviation}"
