"""This module draws test accuracy against costs: trained parameters, peak memory and training time.

The Pareto front consists of the methods for which no other method is both better and cheaper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peft_vision.report.figures import GRID, NORMAL, Look, equal_panels, method_handle, panel_figure, set_log
from peft_vision.report.leaderboard import COSTS, Leaderboard

_AXES = {"parameters": "trained parameters", COSTS[0]: "peak memory (MiB)", COSTS[1]: "training time (s)"}
_PANEL = 2.0  # inches
_AREA = 36  # of a marker
_FRONT = {"color": "#404040", "linewidth": 0.9, "linestyle": "--"}


@dataclass(frozen=True)
class ParetoPoint:
    """The cost and accuracy of a method; `accuracy` and `std` in %."""

    method: str
    cost: float
    accuracy: float
    std: float | None


def front(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """Return the points on the Pareto front, from the cheapest to the most accurate."""
    found: list[ParetoPoint] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.accuracy)):
        if not found or point.accuracy > found[-1].accuracy:
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
                std = None if entry.score.std is None else 100 * entry.score.std
                found[axis].append(ParetoPoint(line.method, cost, 100 * entry.score.mean, std))
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
    lines = equal_panels(len(panels), len(panels), width=_PANEL, height=_PANEL)
    figure, axes = panel_figure(title, lines, handles, shares_y=True, titled=False)
    for panel_axes, (axis, measured) in zip(axes, panels.items(), strict=True):
        _draw(panel_axes, measured, look_of)
        panel_axes.set_xlabel(_AXES[axis], fontsize=NORMAL)
    axes[0].set_ylabel("test accuracy (%)", fontsize=NORMAL)
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
