"""This module makes the figures of a report: a look for each method, panels in lines with a title above and a legend
below, and axes of accuracies and of logarithms.

Everything is placed in inches from the start: measuring every word, as matplotlib's own layouts do, takes a fifth of
the time of a report.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from peft_vision.report.options import Transform
from peft_vision.report.robustness import scale, unscale

GRID = {"color": "#e6e6e6", "linewidth": 0.5}
FAINT = "#9a9a9a"
SMALL, NORMAL = 7.0, 8.0  # pt, sizes of letters
# Okabe and Ito's colours, which colour-blind readers tell apart, with a wine red for their yellow, which fades on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
# each with the area factor that makes it look as large as the others
_MARKERS = {
    "o": 1.0,
    "s": 0.9,
    "^": 1.2,
    "D": 0.75,
    "v": 1.2,
    "P": 1.5,
    "X": 1.4,
    "<": 1.2,
    ">": 1.2,
    "p": 1.3,
    "h": 1.2,
    "*": 2.0,
}
_HATCHES = ("", "/////", "....", "xxxxx")

LEFT, RIGHT, _TOP, _BOTTOM = 0.58, 0.14, 0.26, 0.44  # inches around the axes of a panel
_UNTITLED_TOP = 0.08
NARROW_LEFT = 0.12  # inches, of a panel that shares the axis of the panel before it
_TITLE = 0.26  # inches, of the figure's title
_HINTED = 1.15  # factor by which letters fitted to pixels are wider than their outlines, at most

_PERCENT_STEPS = (10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # %, between ticks
_ROUND = 5  # %: steps of this size or more get ticks wherever there is room
_LEAST, _MOST = 3, 7  # ticks of an accuracy
_MARGIN = 0.06  # fraction of the accuracies' range, added at both ends
_EXACT = 10**9  # images: so many that no tick is clipped
_LOG_MOST = 6  # ticks of a logarithm
_LOG_STEPS = ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))  # within a power of ten, the finest first
_LOG_MARGIN = 0.1  # fraction of the values' logarithmic range, added at both ends
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Look:
    """The look of a method. `area`: a factor of the marker's area. No two of the first 24 methods share colour and
    marker, and no two of the first 32 share colour and hatch."""

    colour: str
    marker: str
    area: float
    hatch: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Return a look for each label, assigned in the order of the labels."""
    markers = list(_MARKERS.items())
    return {
        label: Look(
            colour=_COLOURS[number % len(_COLOURS)],
            marker=markers[number % len(markers)][0],
            area=markers[number % len(markers)][1],
            hatch=_HATCHES[number // len(_COLOURS) % len(_HATCHES)],
        )
        for number, label in enumerate(labels)
    }


def method_handle(look: Look, name: str, **style: object) -> Line2D:
    """Return the handle of a method's line or marker in a legend."""
    return Line2D([], [], color=look.colour, marker=look.marker, label=plain(name), **style)


@dataclass(frozen=True)
class PanelLine:
    """A line of panels, in inches: the widths of their axes, the height of these, and the room below for labels."""

    widths: tuple[float, ...]
    height: float
    below: float = _BOTTOM


def equal_panels(count: int, columns: int, *, width: float, height: float) -> list[PanelLine]:
    """Return the lines of `count` equal panels, at most `columns` in a line."""
    return [PanelLine((width,) * min(columns, count - start), height) for start in range(0, count, columns)]


def titled_width(least: float, titles: Iterable[str]) -> float:
    """Return the width, in inches, of panels that have room for their `titles`."""
    return max(least, *(_HINTED * inches(title, NORMAL) - 2 * RIGHT for title in titles))


def panel_figure(
    title: str, lines: Sequence[PanelLine], handles: Sequence[Artist], *, shares_y: bool, titled: bool
) -> tuple[Figure, list[Axes]]:
    """Return a figure without a window or global state, and the axes of its panels in reading order. `handles`: of the
    legend. `shares_y`: whether the panels in a line share the y axis. `titled`: whether each gets a title."""
    labels = [str(handle.get_label()) for handle in handles]
    left = NARROW_LEFT if shares_y else LEFT
    whole = max(LEFT - left + sum(width + left + RIGHT for width in line.widths) for line in lines)
    wide = max(whole, legend_width(labels), inches(title, NORMAL + 1) + 2 * RIGHT)
    under = legend_height(labels, wide)
    top = _TOP if titled else _UNTITLED_TOP
    tall = _TITLE + sum(top + line.height + line.below for line in lines) + under
    figure = Figure(figsize=(wide, tall))
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.13 / tall, plain(title), fontsize=NORMAL + 1, ha="center", va="center")
    panels: list[Axes] = []
    y = tall - _TITLE
    for line in lines:
        y -= top + line.height
        x, first = LEFT, None
        for width in line.widths:
            axes = figure.add_axes((x / wide, y / tall, width / wide, line.height / tall), sharey=first)
            axes.tick_params(labelsize=SMALL, labelleft=first is None)
            axes.set_axisbelow(True)
            panels.append(axes)
            x += width + RIGHT + left
            first = axes if shares_y and first is None else first
        y -= line.below
    if labels:
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=_legend_columns(labels, wide),
            fontsize=SMALL,
            frameon=False,
            borderaxespad=0.2,
        )
    return figure, panels


def legend_height(labels: Sequence[str], width: float) -> float:
    """Return the height, in inches, of the legend below a figure of `width` inches; 0 without labels."""
    return 0.17 * math.ceil(len(labels) / _legend_columns(labels, width)) + 0.1 if labels else 0.0


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many columns of the legend fit into a figure of `width` inches."""
    return max(1, min(len(labels), int(width / legend_width(labels))))


def legend_width(labels: Sequence[str]) -> float:
    """Return the width, in inches, of one column of the legend; 0 without labels."""
    return max(inches(label, SMALL) for label in labels) + 0.55 if labels else 0.0


@cache
def inches(text: str, size: float) -> float:
    """Return the width, in inches, of a line in letters of `size` points."""
    return TextPath((0, 0), plain(text), size=size).get_extents().width / 72 if text.strip() else 0.0


def plain(text: str) -> str:
    """Escape dollar signs, so that matplotlib does not read a formula."""
    return text.replace("$", r"\$")


def limits(values: list[float]) -> tuple[float, float]:
    """Return the limits of an axis that shows all `values`, scaled as these are."""
    low, high = min(values), max(values)
    margin = _MARGIN * (high - low) or 0.1
    return low - margin, high + margin


def set_accuracies(axis: Axis, ends: tuple[float, float], transform: Transform) -> None:
    """Set the ticks of an axis whose limits, scaled, are `ends`."""
    places = accuracy_ticks(*ends, transform)
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_major_formatter(FixedFormatter(list(places.values())))


def accuracy_ticks(low: float, high: float, transform: Transform) -> dict[float, str]:
    """Return the labels, in %, of round accuracies by their scaled places; less round ones only while there are few."""
    first, last = (100 * unscale(end, transform=transform) for end in (low, high))
    places: dict[float, str] = {}
    for step in _PERCENT_STEPS:
        if step < _ROUND and len(places) >= _LEAST:
            break
        for number in range(math.ceil(first / step), math.floor(last / step) + 1):
            percent = number * step
            place = scale(percent / 100, images=_EXACT, transform=transform)
            clear = all(abs(place - other) >= (high - low) / _MOST for other in places)
            if clear and 0 < percent < 100:
                places[place] = f"{percent:g}"
    return places


def set_log(axis: Axis, values: list[float]) -> None:
    """Make the axis logarithmic and show all `values`, which must be above zero."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = _LOG_MARGIN * (high - low) or 0.3
    ends = (10 ** (low - margin), 10 ** (high + margin))
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(*ends)
    places = log_ticks(*ends)
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter([short(place) for place in places]))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values between `low` and `high`, as many as have room."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _LOG_STEPS:
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= _LOG_MOST:
            break
    return found[:: math.ceil(len(found) / _LOG_MOST)] if len(found) > 1 else _linear(low, high)


def short(value: float) -> str:
    """Return a value with four significant digits at most, and k, M or G."""
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _linear(low: float, high: float) -> list[float]:
    """Return the ticks of an axis too short for powers of ten and their halves: multiples of 1, 2 or 5 times 10^k."""
    unit = 10.0 ** math.floor(math.log10(high - low))
    step = next(part for part in (unit / 5, unit / 2, unit, 2 * unit) if (high - low) / part <= _LOG_MOST - 1)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
