"""This module gives all pictures of a report one look for each method, and creates their figures."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

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


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return a figure of `width` by `height` inches, without a window or global state, laid out so nothing overlaps."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title), fontsize=NORMAL + 1)
    return figure


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """Draw the legend of the whole figure below it, in as many columns as have room."""
    columns = legend_columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False)


def legend_height(labels: Sequence[str], width: float) -> float:
    """Return the height, in inches, of the legend below a figure of `width` inches."""
    return 0.17 * math.ceil(len(labels) / legend_columns(labels, width)) + 0.1


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many columns of the legend fit into a figure of `width` inches."""
    return max(1, min(len(labels), int(width / legend_width(labels))))


def legend_width(labels: Sequence[str]) -> float:
    """Return the width, in inches, of one column of the legend."""
    return max(inches(label, SMALL) for label in labels) + 0.55


@cache
def inches(text: str, size: float) -> float:
    """Return the width, in inches, of a line in letters of `size` points."""
    return TextPath((0, 0), plain(text), size=size).get_extents().width / 72 if text.strip() else 0.0


def plain(text: str) -> str:
    """Escape dollar signs, so that matplotlib does not read a formula."""
    return text.replace("$", r"\$")
