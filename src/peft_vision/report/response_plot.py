"""This module draws a response: a heat map of learning rate and weight decay, or a line where only one of them varies
or for the strengths of a solver."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from peft_vision.report.panels import panel_figure
from peft_vision.report.picture import NORMAL, SMALL, inches, plain
from peft_vision.report.response import Place, Response, TriedPoint

_COLUMNS = 3
_CELL, _LEAST, _LOWEST = 0.44, 1.5, 1.1  # inches, of a cell, and the least width and height of a panel
_MOST = 25.0  # inches, the most for a panel of hundreds of settings
_AROUND = 0.6  # inches by which a title may be wider than its panel
_SMALL = 1e-3  # rates and decays below it are written as powers of ten
_INK, _PAPER = "#111111", "#fefefe"  # colours of text on a coloured cell, which do not follow the page's theme
_HATCHED = {"facecolor": "none", "edgecolor": "#9a9a9a", "hatch": "////", "linewidth": 0.0}
_CHOSEN = "#D55E00"
_LINE = "#4878a8"


def response_plot(found: Mapping[str, Response], title: str) -> Figure | None:
    """Draw a panel for each method. None where nothing was varied."""
    if not found:
        return None
    figure, axes = panel_figure(
        title,
        count=len(found),
        columns=min(len(found), _COLUMNS),
        width=max(
            _LEAST,
            *(min(_MOST, _CELL * len(its.rates)) for its in found.values()),
            *(inches(name, NORMAL) - _AROUND for name in found),
        ),
        height=max(_LOWEST, *(min(_MOST, _CELL * len(its.decays)) for its in found.values())),
        handles=_legend(found),
        shares_y=False,
        titled=True,
    )
    for its_axes, (method, its) in zip(axes, found.items(), strict=True):
        if len(its.rates) > 1 and len(its.decays) > 1:
            _heat_map(its_axes, its)
        else:
            _line(its_axes, its)
        its_axes.set_title(plain(method), fontsize=NORMAL)
    return figure


def _heat_map(axes: Axes, its: Response) -> None:
    accuracies = [tried.accuracy for tried in its.tried.values()]
    low, high = min(accuracies), max(accuracies)
    colours = matplotlib.colormaps["YlGnBu"]
    most = max(tried.seeds for tried in its.tried.values())
    for x, rate in enumerate(its.rates):
        for y, decay in enumerate(its.decays):
            place = (rate, decay)
            corner = (x - 0.5, y - 0.5)
            if place not in its.tried:
                axes.add_patch(Rectangle(corner, 1, 1, **_HATCHED))
                if place in its.failed:
                    _write(axes, x, y, "failed", "#000000")
                continue
            tried = its.tried[place]
            depth = 0.08 + 0.8 * ((tried.accuracy - low) / (high - low) if high > low else 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colours(depth), edgecolor=_PAPER, linewidth=1.0))
            _write(axes, x, y, _figure(tried, most), _PAPER if depth > 0.55 else _INK)
    if its.chosen:
        x, y = its.rates.index(its.chosen[0]), its.decays.index(its.chosen[1])
        axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=_CHOSEN, linewidth=1.8))
    axes.set_xlim(-0.5, len(its.rates) - 0.5)
    axes.set_ylim(-0.5, len(its.decays) - 0.5)
    axes.set_xticks(range(len(its.rates)), [_text(rate) for rate in its.rates])
    axes.set_yticks(range(len(its.decays)), [_text(decay) for decay in its.decays])
    axes.set_xlabel(its.axes[0], fontsize=NORMAL)
    axes.set_ylabel(its.axes[1], fontsize=NORMAL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _line(axes: Axes, its: Response) -> None:
    """Draw the values evenly spaced, so that a distant value does not crowd the others together."""
    of_rate = len(its.rates) > 1
    values = its.rates if of_rate else its.decays
    places: list[Place] = [(value, its.decays[0]) if of_rate else (its.rates[0], value) for value in values]
    known = [x for x, place in enumerate(places) if place in its.tried]
    heights = [100 * its.tried[places[x]].accuracy for x in known]
    axes.plot(known, heights, color=_LINE, linewidth=1.2, marker="o", ms=4, zorder=2)
    for x, place in enumerate(places):
        if place in its.failed:
            axes.axvspan(x - 0.35, x + 0.35, **_HATCHED)
            axes.text(
                x,
                0.5,
                "failed",
                rotation=90,
                ha="center",
                va="center",
                fontsize=SMALL,
                transform=axes.get_xaxis_transform(),
            )
    if its.chosen:
        x = places.index(its.chosen)
        axes.plot(x, 100 * its.tried[its.chosen].accuracy, "o", ms=9, mfc="none", mec=_CHOSEN, mew=1.8, zorder=3)
    axes.set_xticks(range(len(values)), [_text(value) for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.margins(y=0.15)
    axes.set_xlabel(its.axes[0] if of_rate else its.axes[1], fontsize=NORMAL)
    axes.set_ylabel("validation accuracy (%)", fontsize=NORMAL)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)


def _legend(found: Mapping[str, Response]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    if any(its.chosen for its in found.values()):
        handles.append(Patch(fill=False, edgecolor=_CHOSEN, linewidth=1.8, label="chosen"))
    if any(len(its.tried) < len(its.rates) * len(its.decays) for its in found.values()):
        handles.append(Patch(**_HATCHED, label="not tried, or failed"))
    return handles


def _figure(tried: TriedPoint, most: int) -> str:
    text = f"{100 * tried.accuracy:.1f}"
    return text if tried.seeds == most else f"{text}\n({tried.seeds})"


def _write(axes: Axes, x: int, y: int, text: str, colour: str) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=colour)


def _text(value: float | None) -> str:
    """Return a value short enough for its cell, such as 1e-4."""
    if value is None:
        return "none"
    small = 0 < abs(value) < _SMALL
    return np.format_float_scientific(value, precision=2, trim="-", exp_digits=1) if small else f"{value:g}"
