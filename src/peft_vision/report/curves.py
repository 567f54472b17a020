"""This module draws learning curves, which are validation accuracy and training loss by epoch, of the chosen settings;
and accuracy in and out of distribution along the interpolation of weights (Wortsman et al., 2022, arXiv:2109.01903),
a curve for each method, from alpha = 0, where nothing is tuned, to alpha = 1.
"""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import BboxBase

from peft_vision.core.output import one_line
from peft_vision.core.records import Unreadable, exists, lines_checksum, read_json_lines
from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.choose import Setting
from peft_vision.report.figures import (
    GRID,
    NORMAL,
    SMALL,
    Look,
    equal_panels,
    looks,
    method_handle,
    panel_figure,
    plain,
    set_log,
    titled_width,
)
from peft_vision.report.id_ood import ID, MEAN, Comparison, ComparisonRow
from peft_vision.runs.run import is_epoch

_log = logging.getLogger("peft_vision")
_LOSS = "train/loss"
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
        _log.warning("no learning curve of %d runs: no %s", len(gone), one_line(gone[0]))
    recorded = _panels(setting.metric)
    runs = [
        _epochs(file, run.rows_checksum, recorded)
        for file, run in zip(files, setting.runs, strict=True)
        if file not in gone
    ]
    found = {metric: [values[metric] for values in runs if values[metric]] for metric in recorded}
    return {metric: curve for metric, recorded in found.items() if recorded and (curve := _curve(recorded)) is not None}


def _panels(metric: Metric) -> dict[str, str]:
    """Return what is drawn, by its name in metrics.jsonl, with the words at its axis."""
    return {f"val/{metric.name}": f"validation {metric.words}{metric.unit}", _LOSS: "training loss"}


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
    chosen_by = next((setting.metric for setting in chosen.values()), ACCURACY)
    words = _panels(chosen_by)
    panels = {
        metric: {method: by_metric[metric] for method, by_metric in found.items() if metric in by_metric}
        for metric in words
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
                _draw(panel_axes, lines[method], look_of[method], 1 if metric == _LOSS else chosen_by.scale)
        values = [value for curve in lines.values() for value in curve.mean]
        if metric == _LOSS and min(values) > 0:
            set_log(panel_axes.yaxis, values)
        panel_axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        panel_axes.set_xlabel("epoch", fontsize=NORMAL)
        panel_axes.set_ylabel(words[metric], fontsize=NORMAL)
        panel_axes.grid(**GRID)
    return figure


def _epochs(path: Path, checksum: str | None, recorded: Iterable[str]) -> dict[str, dict[int, float]]:
    """Return values by metric and epoch, from the intact lines of the file; a solver's lines are settings, not
    epochs."""
    found: dict[str, dict[int, float]] = {metric: {} for metric in recorded}
    for row in _rows(path, checksum):
        epoch = row.get("epoch")
        if not is_epoch(row) or type(epoch) is not int or not 0 < epoch <= _LAST_EPOCH:
            continue
        for metric in found:
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
        _log.warning("no learning curve: %s", one_line(error))
        return []
    if changed:
        _log.warning("learning curve of %s: metrics.jsonl is not as the run wrote it", one_line(path.parent.name))
    rows = [row for row in found if "lr" in row or "weight_decay" in row]
    torn += len(found) - len(rows) - sum("C" in row for row in found)  # penalties that L-BFGS tried are no curve
    if torn:
        _log.warning(
            "learning curve of %s: metrics.jsonl has %d lines without a record", one_line(path.parent.name), torn
        )
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


_OOD = f"{MEAN}/accuracy"
_TOGETHER = 3  # methods that one panel can show with labels
_COLUMNS = 3
_TOGETHER_WIDTH, _ALPHA_WIDTH, _ALPHA_HEIGHT = 3.6, 1.9, 1.75  # inches, of a panel
_DISTANCES = (6, 8, 10)  # pt, between a label and its point
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
_OTHERS = Look(colour="#d8d8d8", marker="", area=1.0, hatch="")


@dataclass(frozen=True)
class AlphaCurve:
    """The curve of one method. `points`: ID and OOD accuracy in %, means over seeds, by alpha; `chosen`: the means at
    the alpha that validation chose for each seed."""

    points: Mapping[float, tuple[float, float]]
    chosen: tuple[float, float]


def curve(row: ComparisonRow) -> AlphaCurve | None:
    """Return the curve of an interpolated row over the alphas that all its seeds have; None without OOD figures."""
    runs = [run for run in row.cell.chosen.runs if run.alpha is not None] if row.cell.chosen else []
    scored = [
        {alpha: metrics for alpha, metrics in run.curve.items() if ID in metrics and _OOD in metrics} for run in runs
    ]
    alphas = sorted(set.intersection(*(set(along) for along in scored))) if scored else []
    chosen = [row.statistic(metric) for metric in (ID, _OOD)]
    if not alphas or None in chosen:
        return None
    points = {
        alpha: tuple(100 * fmean(along[alpha][metric] for along in scored) for metric in (ID, _OOD)) for alpha in alphas
    }
    return AlphaCurve(points, tuple(100 * statistic.mean for statistic in chosen))


def alpha_curves(comparison: Comparison, look_of: Mapping[str, Look] | None = None) -> Figure | None:
    """Draw up to three methods in one panel, or more in a panel each with the others faint behind. None where nothing
    was interpolated and scored out of distribution."""
    look_of = look_of or looks(row.label for row in comparison.rows if not row.is_interpolated)
    interpolated = [row for row in comparison.rows if row.is_interpolated]
    curves = {row.cell.method: found for row in interpolated if (found := curve(row)) is not None}
    if not curves:
        return None
    together = len(curves) <= _TOGETHER
    panels = [list(curves)] if together else [[method] for method in curves]
    shapes = {method: look_of[method] for method in curves} if together else {"other methods": _OTHERS}
    star = {"linestyle": "", "marker": "*", "color": "white", "ms": 10, "mec": "black"}
    handles = [method_handle(look, name, ms=4) for name, look in shapes.items()]
    handles.append(Line2D([], [], label="alpha that validation chose", **star))
    width = _TOGETHER_WIDTH if together else titled_width(_ALPHA_WIDTH, curves)
    height = _ALPHA_HEIGHT * (1.75 if together else 1)
    lines = equal_panels(len(panels), _COLUMNS, width=width, height=height)
    figure, every = panel_figure(comparison.title, lines, handles, shares_y=False, titled=not together)
    for number, (axes, shown) in enumerate(zip(every, panels, strict=True)):
        if number:
            axes.sharex(every[0])
            axes.sharey(every[0])
        _panel(axes, curves, shown, look_of)
        axes.set_title("" if together else plain(shown[0]), fontsize=NORMAL)
        if number >= len(panels) - len(lines[-1].widths):
            axes.set_xlabel("ID test accuracy (%)", fontsize=NORMAL)
        if number % _COLUMNS == 0:
            axes.set_ylabel("OOD mean accuracy (%)", fontsize=NORMAL)
    figure.draw_without_rendering()  # before labels are placed, axes must have their limits
    for axes, shown in zip(every, panels, strict=True):
        _write_alphas(axes, [curves[method] for method in shown], [look_of[method].colour for method in shown])
    return figure


def _panel(axes: Axes, curves: Mapping[str, AlphaCurve], shown: Sequence[str], look_of: Mapping[str, Look]) -> None:
    for method, alpha_curve in curves.items():
        look = look_of[method] if method in shown else _OTHERS
        front = 3 if method in shown else 1
        points = list(zip(*alpha_curve.points.values(), strict=True))
        axes.plot(*points, color=look.colour, linewidth=1.2, marker=look.marker, ms=4, zorder=front)
        if method in shown:
            axes.plot(*alpha_curve.chosen, marker="*", color="white", ms=12, mec=look.colour, mew=1.4, zorder=4)
    axes.grid(**GRID)
    axes.margins(0.12)


def _write_alphas(axes: Axes, curves: Sequence[AlphaCurve], colours: Sequence[str]) -> None:
    """Write each alpha next to its point where there is room, ends first, without covering a label, marker or curve."""
    renderer = axes.figure.canvas.get_renderer()
    taken = _around(np.concatenate([_places(axes, [alpha_curve.chosen]) for alpha_curve in curves]), 9)
    for alpha_curve in curves:
        points = _places(axes, list(alpha_curve.points.values()))
        between = np.concatenate([np.linspace(start, end, 20) for start, end in itertools.pairwise(points)] or [points])
        taken = np.concatenate([taken, _around(points, 3), _around(between, 1)])
    inside = axes.get_window_extent()
    wanted = [
        (alpha not in (min(alpha_curve.points), max(alpha_curve.points)), number, alpha, place)
        for number, alpha_curve in enumerate(curves)
        for alpha, place in alpha_curve.points.items()
    ]
    for _, number, alpha, place in sorted(wanted):
        style = {"fontsize": SMALL - 1, "color": colours[number], "ha": "center", "va": "center"}
        label = axes.annotate(f"{alpha:g}", place, (0, 0), textcoords="offset points", **style)
        for distance, (right, up) in itertools.product(_DISTANCES, _DIRECTIONS):
            label.xyann = (right * distance, up * distance)
            box = label.get_window_extent(renderer)
            if inside.contains(*box.min) and inside.contains(*box.max) and not _covers(box, taken):
                taken = np.concatenate([taken, [box.padded(3).get_points()]])
                break
        else:
            label.remove()


def _places(axes: Axes, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the points in pixels, (n, 2)."""
    return axes.transData.transform(points)


def _around(places: np.ndarray, radius: float) -> np.ndarray:
    """Return the lower left and the upper right corner of a square around each place, (n, 2, 2)."""
    return np.stack([places - radius, places + radius], axis=1)


def _covers(box: BboxBase, others: np.ndarray) -> bool:
    """Return whether a box overlaps any of the others, (n, 2, 2)."""
    return bool(((box.min < others[:, 1]) & (others[:, 0] < box.max)).all(axis=1).any())
