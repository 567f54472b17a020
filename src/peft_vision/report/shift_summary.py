"""This module prints the scores of a run out of distribution."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from peft_vision.core.output import Console

_SHOWN = 8  # shifts of a set that get a row each, at most
_COLUMNS = {"accuracy": "accuracy", "calibration_error": "calibration error"}


def print_shifts(record: Mapping[str, Any], folder: Path) -> None:
    """Print the table, and the lines below it, on standard output."""
    console = Console()
    metrics, images = record["metrics"], record["images"]
    if images:
        console.print(_table(metrics, images))
    lines = []
    if "test/feature_distance" in metrics:
        moved = f"{metrics['test/feature_distance']:.3g} on test"
        if images:
            moved += f", {metrics['ood/mean/feature_distance']:.3g} out of distribution"
        lines.append(
            f"features  moved by {moved} ({_percent(metrics['test/feature_distance_relative'])} of their length)"
        )
    if record["interpolation"] is not None:
        lines += _interpolation(record["interpolation"])
    lines.append(f"saved     {folder}/ood.json")
    for line in lines:
        console.print(line, soft_wrap=True)


def _table(metrics: Mapping[str, float], images: Mapping[str, int]) -> Table:
    """Return a table in percent with a row for each shift and the means, and a column for the first phase's head."""
    table = Table(title="out of distribution")
    table.add_column("%")
    for column in _COLUMNS.values():
        table.add_column(column, justify="right")
    probed = "probe/ood/mean/accuracy" in metrics
    if probed:
        table.add_column("accuracy of the probe", justify="right")

    def add(label: str, prefix: str) -> None:
        probe = [metrics.get(f"probe/{prefix}/accuracy")] if probed else []
        values = [*(metrics.get(f"{prefix}/{metric}") for metric in _COLUMNS), *probe]
        table.add_row(label, *("" if value is None else f"{100 * value:.2f}" for value in values))

    sets: dict[str, list[str]] = {}
    for shift in images:
        sets.setdefault(shift.split("/")[0], []).append(shift)
    for name, shifts in sets.items():
        for shift in shifts if 1 < len(shifts) <= _SHOWN else []:
            add(f"{shift} ({images[shift]:,} images)", f"ood/{shift}")
        count = sum(images[shift] for shift in shifts)
        many = f", mean of {len(shifts)} shifts" if len(shifts) > 1 else ""
        add(f"{name} ({count:,} images{many})", f"ood/{name}")
    if len(sets) > 1:
        add(f"mean of {len(sets)} sets", "ood/mean")
    if len(images) > 1:
        add(f"worst of {len(images)} shifts", "ood/worst")
    return table


def _interpolation(interpolation: Mapping[str, Any]) -> list[str]:
    """Return a line of each metric along alpha, and a line of the chosen alpha."""
    rows = interpolation["rows"]
    metrics = {"val/accuracy": "val", "test/accuracy": "test", "ood/mean/accuracy": "ood"}
    names = {metric: name for metric, name in metrics.items() if metric in rows[0]}
    scales = {"alpha": ("alpha", 1), **{name: (metric, 100) for metric, name in names.items()}}
    lines = [
        f"{name:9} {' '.join(f'{scale * row[metric]:5.1f}' for row in rows)}"
        for name, (metric, scale) in scales.items()
    ]
    chosen = next(row for row in rows if row["alpha"] == interpolation["chosen"])
    scores = ", ".join(f"{name} {_percent(chosen[metric])}" for metric, name in names.items())
    return [*lines, f"chosen    alpha={chosen['alpha']:g}: {scores}; {interpolation['rule']}"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
