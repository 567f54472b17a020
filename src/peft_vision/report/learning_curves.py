"""This module draws learning curves: validation accuracy and training loss by epoch, of the chosen settings."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from peft_vision.core.records import Unreadable, exists, lines_checksum, read_json_lines
from peft_vision.report.choose import Setting
from peft_vision.report.figures import GRID, NORMAL, Look, equal_panels, method_handle, panel_figure, set_log

_log = logging.getLogger("peft_vision")
_PANELS = {"val/accuracy": "validation accuracy (%)", "train/loss": "training loss"}
_LAST_EPOCH, _LARGEST = 10**7, 1e30  # above these a line is not an epoch, and a value not a loss
_WIDTH, _HEIGHT = 2.8, 2.1  # inches, of a panel


@dataclass(frozen=True)
class LearningCurve:
    """The mean and standard deviation of a metric over the seeds, by epoch; `std` is 0 for one seed."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def curves(setting: Setting) -> dict[str, LearningCurve]:
    """Return the curves by metric, over the epochs that all runs which recorded the metric have in common."""
    files = [run.folder / "metrics.jsonl" for run in setting.runs]
    if gone := [file for file in files if not exists(file)]:  # for example, where only results were copied
        _log.warning("no learning curve of %d runs: no %s", len(gone), gone[0])
    runs = [_epochs(file, run.rows_checksum) for file, run in zip(files, setting.runs, strict=True) if file not in gone]
    found = {metric: [values[metric] for values in runs if values[metric]] for metric in _PANELS}
    return {metric: curve for metric, recorded in found.items() if recorded and (curve := _curve(recorded)) is not None}


def _curve(runs: Sequence[Mapping[int, float]]) -> LearningCurve | None:
    shared = sorted(set.intersection(*map(set, runs)))
    if not shared:
        return None
    values = np.array([[run[epoch] for epoch in shared] for run in runs])
    std = values.std(axis=0, ddof=1) if runs[1:] else np.zeros(len(shared))
    return LearningCurve(tuple(shared), tuple(values.mean(axis=0).tolist()), tuple(std.tolist()))


def learning_curves(chosen: Mapping[str, Setting], look_of: Mapping[str, Look], title: str) -> Figure | None:
    """Draw a line for each method. None where no run has epochs."""
    found = {method: curves(setting) for method, setting in chosen.items()}
    panels = {
        metric: {method: by_metric[metric] for method, by_metric in found.items() if metric in by_metric}
        for metric in _PANELS
    }
    panels = {metric: lines for metric, lines in panels.items() if lines}
    if not panels:
        return None
    methods = [method for method in look_of if any(method in lines for lines in panels.values())]
    handles = [method_handle(look_of[method], method, ms=3.5) for method in methods]
    layout = equal_panels(len(panels), len(panels), width=_WIDTH, height=_HEIGHT)
    figure, axes = panel_figure(title, layout, handles, shares_y=False, titled=False)
    for panel_axes, (metric, lines) in zip(axes, panels.items(), strict=True):
        for method in methods:
            if method in lines:
                _draw(panel_axes, lines[method], look_of[method], 100 if metric.endswith("accuracy") else 1)
        values = [value for curve in lines.values() for value in curve.mean]
        if metric == "train/loss" and min(values) > 0:
            set_log(panel_axes.yaxis, values)
        panel_axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        panel_axes.set_xlabel("epoch", fontsize=NORMAL)
        panel_axes.set_ylabel(_PANELS[metric], fontsize=NORMAL)
        panel_axes.grid(**GRID)
    return figure


def _epochs(path: Path, checksum: str | None) -> dict[str, dict[int, float]]:
    """Return values by metric and epoch, from the intact lines of the file; a solver's lines are settings, not
    epochs."""
    found: dict[str, dict[int, float]] = {metric: {} for metric in _PANELS}
    for row in _rows(path, checksum):
        epoch = row.get("epoch")
        if "lr" not in row or "weight_decay" in row or type(epoch) is not int or not 0 < epoch <= _LAST_EPOCH:
            continue
        for metric in _PANELS:
            value = row.get(metric)
            if isinstance(value, int | float) and abs(value) <= _LARGEST:
                found[metric][epoch] = float(value)
    return found


def _rows(path: Path, checksum: str | None) -> list[dict[str, Any]]:
    """Return the lines that can be read, and warn of the others, and of a file that is not as the run wrote it."""
    try:
        found, torn = read_json_lines(path)
        changed = checksum is not None and lines_checksum(path) != checksum
    except Unreadable as error:
        _log.warning("no learning curve: %s", error)
        return []
    if changed:
        _log.warning("learning curve of %s: metrics.jsonl is not as the run wrote it", path.parent.name)
    rows = [row for row in found if "lr" in row or "weight_decay" in row]
    torn += len(found) - len(rows)
    if torn:
        _log.warning("learning curve of %s: metrics.jsonl has %d lines without a record", path.parent.name, torn)
    return rows


def _draw(axes: Axes, curve: LearningCurve, look: Look, factor: float) -> None:
    mean = [factor * value for value in curve.mean]
    marks = max(1, len(mean) // 8)
    axes.plot(
        curve.epochs, mean, color=look.colour, linewidth=1.2, marker=look.marker, ms=3.5, markevery=marks, zorder=3
    )
    if any(curve.std):
        low, high = _band(mean, [factor * value for value in curve.std])
        axes.fill_between(curve.epochs, low, high, color=look.colour, alpha=0.14, linewidth=0, zorder=2)


def _band(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the ends of one deviation around the mean, above zero where the mean is, for a logarithmic axis."""
    low = [value - spread if value > spread else value / 10 for value, spread in zip(mean, std, strict=True)]
    return low, [value + spread for value, spread in zip(mean, std, strict=True)]
