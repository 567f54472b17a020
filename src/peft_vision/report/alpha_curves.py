"""This module draws accuracy in and out of distribution along the interpolation of weights (Wortsman et al., 2022,
arXiv:2109.01903): a curve for each method, from alpha = 0, where nothing is tuned, to alpha = 1."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import BboxBase

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
    titled_width,
)
from peft_vision.report.id_ood import ID, MEAN, Comparison, ComparisonRow

_OOD = f"{MEAN}/accuracy"
_TOGETHER = 3  # methods that one panel can show with labels
_COLUMNS = 3
_TOGETHER_WIDTH, _WIDTH, _HEIGHT = 3.6, 1.9, 1.75  # inches, of a panel
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
    width = _TOGETHER_WIDTH if together else titled_width(_WIDTH, curves)
    height = _HEIGHT * (1.75 if together else 1)
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
