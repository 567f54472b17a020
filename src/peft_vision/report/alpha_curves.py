"""This module draws accuracy in and out of distribution along the interpolation of weights (Wortsman et al., 2022,
arXiv:2109.01903): a curve for each method, from alpha = 0, where nothing is tuned, to alpha = 1."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from peft_vision.report.id_ood import ID, MEAN, Comparison, ComparisonRow
from peft_vision.report.picture import (
    NORMAL,
    SMALL,
    Look,
    inches,
    legend_below,
    legend_height,
    legend_width,
    looks,
    new_figure,
    plain,
)

_OOD = f"{MEAN}/accuracy"
_TOGETHER = 3  # methods that one panel can show with labels
_COLUMNS = 3
_PANEL = 2.7  # inches
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
    columns = min(len(panels), _COLUMNS)
    lines = math.ceil(len(panels) / columns)
    panel = 1.6 * _PANEL if together else max(_PANEL, *(inches(method, NORMAL) + 0.4 for method in curves))
    shapes = {method: look_of[method] for method in curves} if together else {"other methods": _OTHERS}
    star = Line2D(
        [], [], linestyle="", marker="*", color="white", ms=10, mec="black", label="alpha that validation chose"
    )
    handles = [*(_handle(look, name) for name, look in shapes.items()), star]
    labels = [str(handle.get_label()) for handle in handles]
    width = max(panel * columns + 0.4, legend_width(labels))
    height = 0.85 * panel * lines + legend_height(labels, width) + 0.5
    figure = new_figure(width, height, comparison.title)
    shared: Axes | None = None
    for number, shown in enumerate(panels):
        shared = figure.add_subplot(lines, columns, number + 1, sharex=shared, sharey=shared)
        _panel(shared, curves, shown, look_of)
        shared.set_title("" if together else plain(shown[0]), fontsize=NORMAL)
        if number // columns == lines - 1:
            shared.set_xlabel("ID test accuracy (%)", fontsize=NORMAL)
        if number % columns == 0:
            shared.set_ylabel("OOD mean accuracy (%)", fontsize=NORMAL)
    legend_below(figure, handles)
    figure.draw_without_rendering()  # before labels are placed, panels must have their size
    for axes, shown in zip(figure.axes, panels, strict=True):
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
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#ececec", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.margins(0.12)


def _handle(look: Look, name: str) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.marker, ms=4, label=plain(name))


def _write_alphas(axes: Axes, curves: Sequence[AlphaCurve], colours: Sequence[str]) -> None:
    """Write each alpha next to its point where there is room, ends first, without covering a label, marker or curve."""
    renderer = axes.figure.canvas.get_renderer()
    taken = [_around(place, 9) for alpha_curve in curves for place in _places(axes, [alpha_curve.chosen])]
    for alpha_curve in curves:
        points = _places(axes, list(alpha_curve.points.values()))
        taken += [_around(place, 3) for place in points]
        between = np.concatenate([np.linspace(start, end, 20) for start, end in itertools.pairwise(points)] or [points])
        taken += [_around(place, 1) for place in between]
    inside = axes.get_window_extent()
    wanted = [
        (alpha not in (min(alpha_curve.points), max(alpha_curve.points)), number, alpha, place)
        for number, alpha_curve in enumerate(curves)
        for alpha, place in alpha_curve.points.items()
    ]
    for _, number, alpha, place in sorted(wanted):
        for distance, (right, up) in itertools.product(_DISTANCES, _DIRECTIONS):
            label = _annotation(axes, f"{alpha:g}", place, (right * distance, up * distance), colours[number])
            box = label.get_window_extent(renderer)
            if inside.contains(*box.min) and inside.contains(*box.max) and not box.count_overlaps(taken):
                taken.append(box.padded(3))
                break
            label.remove()


def _places(axes: Axes, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the points in pixels, (n, 2)."""
    return axes.transData.transform(points)


def _around(place: np.ndarray, radius: float) -> Bbox:
    return Bbox([place - radius, place + radius])


def _annotation(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], colour: str
) -> Annotation:
    label = axes.annotate(
        text, place, offset, textcoords="offset points", fontsize=SMALL - 1, color=colour, ha="center", va="center"
    )
    label.set_in_layout(False)  # panels keep the size for which the label was placed
    return label
