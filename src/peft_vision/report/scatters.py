"""This module draws a point for each method or run, in two planes.

Test accuracy is drawn against costs: trained parameters, optimizer state, peak memory and training time. The Pareto
front consists of the methods for which no other method is both better and cheaper.

Accuracy out of distribution is drawn against accuracy in distribution, on axes on which the reference runs lie on a
line (Miller et al., 2021, arXiv:2107.04649): a panel for each set and one for their mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.figures import (
    FAINT,
    GRID,
    NORMAL,
    SMALL,
    Look,
    equal_panels,
    limits,
    looks,
    method_handle,
    panel_figure,
    plain,
    set_accuracies,
    set_log,
    titled_width,
)
from peft_vision.report.id_ood import ID, MEAN, Comparison, ComparisonRow, Scores
from peft_vision.report.leaderboard import COSTS, STATE, Leaderboard
from peft_vision.report.robustness import FittedLine, scale

_AXES = {
    "parameters": "trained parameters",
    STATE: "optimizer state (MiB)",
    COSTS[0]: "peak memory (MiB)",
    COSTS[1]: "training time (s)",
}
_COST_PANEL = 2.0  # inches
_AREA = 36  # of a marker
_FRONT = {"color": "#404040", "linewidth": 0.9, "linestyle": "--"}


@dataclass(frozen=True)
class ParetoPoint:
    """The cost of a method and its accuracy, in %, or the `metric`."""

    method: str
    cost: float
    accuracy: float
    std: float | None
    metric: Metric = ACCURACY

    @property
    def rank(self) -> float:
        """Return a number that is higher for a better method."""
        return self.metric.rank(self.accuracy)


def front(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """Return the points on the Pareto front, from the cheapest to the most accurate."""
    found: list[ParetoPoint] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.rank)):
        if not found or point.rank > found[-1].rank:
            found.append(point)
    return found


def points(board: Leaderboard, number: int) -> dict[str, list[ParetoPoint]]:
    """Return the points of a column by cost; a method whose cost or accuracy was not measured has none."""
    found: dict[str, list[ParetoPoint]] = {axis: [] for axis in _AXES}
    for line in board.lines:
        entry = line.entries[number]
        for axis in _AXES:
            cost = line.cost(number, axis)
            if entry.score and cost:
                score, metric = entry.score, board.metric
                std = None if score.std is None else metric.scale * score.std
                value = metric.scale * metric.rank(score.mean)
                found[axis].append(ParetoPoint(line.method, cost, value, std, metric))
    return {axis: measured for axis, measured in found.items() if measured}


def pareto(board: Leaderboard, number: int, look_of: Mapping[str, Look]) -> Figure | None:
    """Draw the panels of a column; None where fewer than two methods have a figure. Error bars: std over seeds."""
    panels = points(board, number)
    if max((len(measured) for measured in panels.values()), default=0) < 2:
        return None
    methods = [
        method
        for method in look_of
        if any(method == point.method for measured in panels.values() for point in measured)
    ]
    handles = [
        method_handle(look_of[name], name, linestyle="", ms=(_AREA * look_of[name].area) ** 0.5, mec="white")
        for name in methods
    ]
    handles.append(Line2D([], [], label="Pareto front", **_FRONT))
    title = f"{board.columns[number].label}, {board.title}"
    lines = equal_panels(len(panels), len(panels), width=_COST_PANEL, height=_COST_PANEL)
    figure, axes = panel_figure(title, lines, handles, shares_y=True, titled=False)
    for panel_axes, (axis, measured) in zip(axes, panels.items(), strict=True):
        _draw(panel_axes, measured, look_of)
        panel_axes.set_xlabel(_AXES[axis], fontsize=NORMAL)
    axes[0].set_ylabel(f"test {board.metric.words}{board.metric.unit}", fontsize=NORMAL)
    return figure


def _draw(axes: Axes, measured: Sequence[ParetoPoint], look_of: Mapping[str, Look]) -> None:
    best = front(measured)
    axes.step([point.cost for point in best], [point.accuracy for point in best], where="post", zorder=1, **_FRONT)
    for point in measured:
        look = look_of[point.method]
        axes.errorbar(
            point.cost,
            point.accuracy,
            point.std,
            fmt=look.marker,
            ms=(_AREA * look.area) ** 0.5,
            color=look.colour,
            mec="white",
            mew=0.5,
            elinewidth=0.8,
            zorder=2,
        )
    set_log(axes.xaxis, [point.cost for point in measured])
    axes.grid(**GRID)


_SHIFT_WIDTH, _SHIFT_HEIGHT = 1.9, 1.75  # inches, of a panel
_COLUMNS = 4
_STRONG, _WEAK = 32, 13  # areas of markers
_DIAGONAL = {"color": FAINT, "linestyle": "--", "linewidth": 0.8}
_FIT = {"color": "black", "linewidth": 1.0}


def id_ood_scatter(comparison: Comparison, look_of: Mapping[str, Look] | None = None) -> Figure | None:
    """Draw every run faintly, those of chosen settings strongly. None where no run was scored out of distribution."""
    rows = [row for row in comparison.rows if not row.is_interpolated]
    every = [scores for row in rows for scores in row.all_scores]
    candidates = [*(f"ood/{name}" for name in comparison.sets), *([MEAN] if len(comparison.sets) > 1 else [])]
    ends = {
        target: [limits(values.tolist()) for values in points.T]
        for target in candidates
        if len(points := _points(comparison, target, every))
    }
    if not ends:
        return None
    columns = min(len(ends), _COLUMNS if len(ends) != _COLUMNS + 1 else _COLUMNS - 1)
    look_of = look_of or looks(row.label for row in rows)
    diagonal = any(max(x[0], y[0]) < min(x[1], y[1]) for x, y in ends.values())
    handles = _handles(look_of, comparison, rows, diagonal=diagonal)
    width = titled_width(_SHIFT_WIDTH, map(_title, ends))
    lines = equal_panels(len(ends), columns, width=width, height=_SHIFT_HEIGHT)
    figure, panels = panel_figure(comparison.title, lines, handles, shares_y=False, titled=True)
    for number, (axes, target) in enumerate(zip(panels, ends, strict=True)):
        axes.set(xlim=ends[target][0], ylim=ends[target][1])
        for row in rows:
            look = look_of[row.label]
            style = {"marker": look.marker, "c": look.colour}
            faint, strong = (_points(comparison, target, scores).T for scores in (row.all_scores, row.scores))
            axes.scatter(*faint, s=_WEAK * look.area, alpha=0.25, linewidths=0, zorder=2, **style)
            axes.scatter(*strong, s=_STRONG * look.area, edgecolors="white", linewidths=0.5, zorder=3, **style)
        _finish(axes, comparison, target)
        if number >= len(ends) - len(lines[-1].widths):
            axes.set_xlabel("ID test accuracy (%)", fontsize=NORMAL)
        if number % columns == 0:
            axes.set_ylabel("OOD accuracy (%)", fontsize=NORMAL)
    return figure


def _points(comparison: Comparison, target: str, every: Iterable[Scores]) -> np.ndarray:
    """Return (n, 2): the scaled ID and OOD accuracies of the scores that have both."""
    metrics = (ID, f"{target}/accuracy")
    points = [
        [scale(scores[metric], images=comparison.images[metric], transform=comparison.transform) for metric in metrics]
        for scores in every
        if all(metric in scores for metric in metrics)
    ]
    return np.array(points).reshape(-1, 2)


def _finish(axes: Axes, comparison: Comparison, target: str) -> None:
    """Draw everything except the points."""
    axes.axline((0, 0), slope=1, zorder=1, **_DIAGONAL)
    if target in comparison.lines:
        _draw_line(axes, comparison.lines[target])
    set_accuracies(axes.xaxis, axes.get_xlim(), comparison.transform)
    set_accuracies(axes.yaxis, axes.get_ylim(), comparison.transform)
    axes.set_title(plain(_title(target)), fontsize=NORMAL)
    axes.grid(**GRID)


def _title(target: str) -> str:
    return "mean of all sets" if target == MEAN else target.removeprefix("ood/")


def _draw_line(axes: Axes, line: FittedLine) -> None:
    """Draw the line, solid over the range it was fitted on and dotted beyond."""
    ends = [scale(accuracy, images=line.id_images, transform=line.transform) for accuracy in (line.low, line.high)]
    label = f"y = {line.slope:.2f} x {'-' if line.intercept < 0 else '+'} {abs(line.intercept):.2f}"
    label += "" if line.r2 is None else f"\nR² = {line.r2:.2f}"
    axes.axline((0, line.intercept), slope=line.slope, linestyle=":", zorder=1, **_FIT)
    axes.plot(ends, [line.slope * x + line.intercept for x in ends], label=label, zorder=1, **_FIT)
    axes.legend(loc="best", fontsize=SMALL - 1, handlelength=1.2, framealpha=0.8, edgecolor="none", borderpad=0.2)


def _handles(
    look_of: Mapping[str, Look], comparison: Comparison, rows: Sequence[ComparisonRow], *, diagonal: bool
) -> list[Line2D]:
    """Return the handles of the legend below all panels; `diagonal`: whether a panel shows the diagonal."""
    point = {"linestyle": "", "markeredgecolor": "white"}
    handles = [method_handle(look, name, ms=(_STRONG * look.area) ** 0.5, **point) for name, look in look_of.items()]
    if any(len(row.all_scores) > len(row.scores) for row in rows):
        handles.append(Line2D([], [], marker="o", ms=_WEAK**0.5 + 1, color=FAINT, label="other settings", **point))
    if diagonal:
        handles.append(Line2D([], [], label="OOD = ID", **_DIAGONAL))
    if comparison.lines:
        fitted = plain(f"fit of {comparison.reference}, {comparison.transform}")
        handles.append(Line2D([], [], label=fitted, **_FIT))
    return handles
