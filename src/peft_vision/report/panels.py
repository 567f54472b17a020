"""This module lays out a figure of equal panels side by side, with a title above and a legend below.

Everything is placed in inches from the start: measuring every word, as matplotlib's own layouts do, takes a fifth of
the time of a report.
"""

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peft_vision.report.picture import NORMAL, SMALL, inches, legend_columns, legend_height, legend_width, plain

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.58, 0.14, 0.26, 0.44  # inches around the axes of a panel
_UNTITLED_TOP = 0.08
_NARROW_LEFT = 0.12  # inches, of a panel that shares the axis of the panel before it
_TITLE = 0.26  # inches, of the figure's title


def panel_figure(
    title: str,
    *,
    count: int,
    columns: int,
    width: float,
    height: float,
    handles: Sequence[Artist],
    shares_y: bool,
    titled: bool,
) -> tuple[Figure, list[Axes]]:
    """Return the figure and the axes of its `count` panels. `width`, `height`: of a panel's axes, in inches. `handles`:
    of the legend. `shares_y`: whether the panels in a row share the y axis. `titled`: whether each gets a title."""
    labels = [str(handle.get_label()) for handle in handles]
    lines = math.ceil(count / columns)
    left = _NARROW_LEFT if shares_y else _LEFT
    whole = _LEFT + columns * (width + _RIGHT) + (columns - 1) * left
    wide = max(whole, legend_width(labels) if labels else 0.0, inches(title, NORMAL + 1) + 2 * _RIGHT)
    below = legend_height(labels, wide) if labels else 0.0
    top = _TOP if titled else _UNTITLED_TOP
    line = top + height + _BOTTOM
    tall = _TITLE + lines * line + below
    figure = Figure(figsize=(wide, tall))
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.13 / tall, plain(title), fontsize=NORMAL + 1, ha="center", va="center")
    panels: list[Axes] = []
    for number in range(count):
        row, column = divmod(number, columns)
        x = _LEFT + column * (width + _RIGHT + left)
        y = below + (lines - row) * line - top - height
        shared = panels[row * columns] if shares_y and column else None
        axes = figure.add_axes((x / wide, y / tall, width / wide, height / tall), sharey=shared)
        axes.tick_params(labelsize=SMALL, labelleft=shared is None)
        axes.set_axisbelow(True)
        panels.append(axes)
    if labels:
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=legend_columns(labels, wide),
            fontsize=SMALL,
            frameon=False,
            borderaxespad=0.2,
        )
    return figure, panels
