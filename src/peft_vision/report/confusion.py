"""This module draws what the predictions of a method are: the confusion matrix of its classes, as shares of each true
class, and numbers against true numbers.

With few classes every cell has its share; with more, classes are named; with many, the picture shows where they lie.
"""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from peft_vision.report.figures import (
    GRID,
    NORMAL,
    SMALL,
    Look,
    equal_panels,
    inches,
    limits,
    panel_figure,
    plain,
    titled_width,
)
from peft_vision.report.per_class import MOST_NAMED, ClassResults

_MOST_LABELLED = 60  # classes that are named at the axes
_CELLS = {MOST_NAMED: 0.3, _MOST_LABELLED: 0.11}  # inches of a cell, by the most classes
_WHOLE = 4.6  # inches of a matrix without names
_MOST_PIXELS = 250  # of a side of such a matrix; of more cells each shows the largest of several
_LONGEST = 1.5  # inches of a name
_TINY = 5.0  # pt, of the names of many classes
_RIGHT, _WRONG = "Blues", "Oranges"
_INK, _LIGHT = "#202020", "#fefefe"  # letters on a light and on a deep colour
_LEAST, _PALEST = 0.005, 0.0005  # shares from which a cell has its number, and its colour
_POINTS = 2000  # images of a panel, at most
_COLUMNS, _PANEL = 3, 1.9  # panels in a line, and inches of one
_IDENTITY = {"color": "#404040", "linewidth": 0.9, "linestyle": "--"}


def confusion_figure(found: ClassResults, title: str) -> Figure:
    """Draw the confusion matrix: rows are true classes, columns predicted ones."""
    shares, count = found.shares(), len(found.classes)
    size = next((cell for most, cell in _CELLS.items() if count <= most), None)
    letters = SMALL if count <= MOST_NAMED else _TINY
    names = [_fitting(name, letters) for name in found.classes] if size else []
    room = 0.42 + max((inches(name, letters) for name in names), default=0.2)
    side = max(_WHOLE if size is None else count * size, 0.9)
    wide, tall = max(room + side + 0.2, inches(title, NORMAL + 1) + 0.3), 0.32 + side + room
    figure = Figure(figsize=(wide, tall))
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.14 / tall, plain(title), fontsize=NORMAL + 1, ha="center", va="center")
    left = (wide - room - side) / 2 + room - 0.1
    axes = figure.add_axes((left / wide, room / tall, side / wide, side / tall))
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    if size is None:
        _picture(axes, shares)
    else:
        _cells(axes, shares, numbered=count <= MOST_NAMED)
        axes.set_xticks(range(count), [plain(name) for name in names], rotation=90, fontsize=letters)
        axes.set_yticks(range(count), [plain(name) for name in names], fontsize=letters)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set(color="#e6e6e6", linewidth=0.8)
    axes.set_xlabel("predicted class" if size else "predicted class, by number", fontsize=NORMAL)
    axes.set_ylabel("true class" if size else "true class, by number", fontsize=NORMAL)
    return figure


def _fitting(name: str, letters: float) -> str:
    """Return a name without its middle if it is longer than its room: names often differ at their ends."""
    if (whole := inches(name, letters)) <= _LONGEST:
        return name
    kept = int(len(name) * _LONGEST / whole)
    while kept > 1:
        shortened = f"{name[: kept - kept // 2].rstrip()}…{name[-(kept // 2) :].lstrip()}"
        if inches(shortened, letters) <= _LONGEST:
            return shortened
        kept -= 1
    return "…"


def _colours(shares: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return RGBA (..., 4) of cells: the share by its root, so that rare errors are seen; `right`: on the diagonal."""
    depth = 0.06 + 0.86 * np.sqrt(np.clip(shares, 0, 1))
    blue, orange = (matplotlib.colormaps[name](depth) for name in (_RIGHT, _WRONG))
    return np.where(right[..., None], blue, orange)


def _cells(axes: Axes, shares: np.ndarray, *, numbered: bool) -> None:
    true, predicted = np.nonzero(shares > _PALEST)
    corners = np.stack([predicted - 0.5, true - 0.5], axis=1)
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    found = shares[true, predicted]
    colours = _colours(found, true == predicted)
    axes.add_collection(PolyCollection(corners[:, None] + square, facecolors=colours, edgecolors="none"))
    for x, y, share in zip(predicted, true, found, strict=True):
        if numbered and share >= _LEAST:
            ink = _LIGHT if share > (0.35 if x == y else 0.5) else _INK
            axes.text(x, y, f"{100 * share:.0f}", fontsize=SMALL - 1, color=ink, ha="center", va="center")


def _picture(axes: Axes, shares: np.ndarray) -> None:
    """Draw one pixel a cell, or for several of them; the largest share counts, so that no error disappears."""
    count = len(shares)
    step = -(-count // _MOST_PIXELS)
    padded = np.pad(shares, (0, -count % step))
    blocks = padded.reshape(len(padded) // step, step, -1, step)
    largest = blocks.max(axis=(1, 3))
    pixels = _colours(largest, np.eye(len(largest), dtype=bool))
    pixels[largest == 0] = 0  # transparent
    end = len(padded) - 0.5
    axes.imshow(pixels, interpolation="none", extent=(-0.5, end, end, -0.5), aspect="auto")
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axes.tick_params(labelsize=SMALL)


def truth_figures(
    results: Sequence[ClassResults], look_of: Mapping[str, Look], title: str
) -> Iterator[tuple[str, Figure]]:
    """Yield, for each target, its name and a panel for each method: what was predicted for the test images by the first
    seed's run against what is true, with the line on which both are equal."""
    numbers = [found for found in results if found.example.labels_are == "numbers"]
    for place, target in enumerate(numbers[0].classes if numbers else []):
        titles = [f"{found.method}, seed {found.seeds[0]}" for found in numbers]
        lines = equal_panels(len(numbers), _COLUMNS, width=titled_width(_PANEL, titles), height=_PANEL)
        handles = [Line2D([], [], label="predicted = true", **_IDENTITY)]
        figure, panels = panel_figure(f"{target}: {title}", lines, handles, shares_y=False, titled=True)
        shown = [_points(found, place) for found in numbers]
        ends = limits([float(end) for pair in shown for values in pair for end in (values.min(), values.max())])
        ticks = [tick for tick in MaxNLocator(5).tick_values(*ends) if ends[0] <= tick <= ends[1]]
        for axes, found, (truth, predicted), named in zip(panels, numbers, shown, titles, strict=True):
            look = look_of[found.method]
            style = {"marker": look.marker, "c": look.colour, "s": 14 * look.area}
            axes.axline((ends[0], ends[0]), slope=1, zorder=1, **_IDENTITY)
            axes.scatter(truth, predicted, alpha=0.55, linewidths=0, zorder=2, **style)
            axes.set(xticks=ticks, yticks=ticks, xlim=ends, ylim=ends)
            axes.set_title(plain(named), fontsize=NORMAL)
            axes.grid(**GRID)
        for number, axes in enumerate(panels):
            if number + _COLUMNS >= len(panels):  # with none below
                axes.set_xlabel(plain(f"true {target}"), fontsize=NORMAL)
            if number % _COLUMNS == 0:
                axes.set_ylabel(plain(f"predicted {target}"), fontsize=NORMAL)
        yield target, figure


def _points(found: ClassResults, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Return true and predicted numbers of a target, of images that are evenly spread."""
    count = len(found.example)
    chosen = np.arange(min(count, _POINTS)) * count // min(count, _POINTS)
    return found.example.truth[chosen, place], found.example.prediction[chosen, place]
