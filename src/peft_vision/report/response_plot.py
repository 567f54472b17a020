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
            *(min(_MOST, _CELL * len(response.rates)) for response in found.values()),
            *(inches(name, NORMAL) - _AROUND for name in found),
        ),
        height=max(_LOWEST, *(min(_MOST, _CELL * len(response.decays)) for response in found.values())),
        handles=_legend(found),
        shares_y=False,
        titled=True,
    )
    for panel_axes, (method, response) in zip(axes, found.items(), strict=True):
        if len(response.rates) > 1 and len(response.decays) > 1:
            _heat_map(panel_axes, response)
        else:
            _line(panel_axes, response)
        panel_axes.set_title(plain(method), fontsize=NORMAL)
    return figure


def _heat_map(axes: Axes, response: Response) -> None:
    accuracies = [tried.accuracy for tried in response.tried.values()]
    low, high = min(accuracies), max(accuracies)
    colours = matplotlib.colormaps["YlGnBu"]
    most = max(tried.seeds for tried in response.tried.values())
    for x, rate in enumerate(response.rates):
        for y, decay in enumerate(response.decays):
            place = (rate, decay)
            corner = (x - 0.5, y - 0.5)
            if place not in response.tried:
                axes.add_patch(Rectangle(corner, 1, 1, **_HATCHED))
                if place in response.failed:
                    _write(axes, x, y, "failed", "#000000")
                continue
            tried = response.tried[place]
            depth = 0.08 + 0.8 * ((tried.accuracy - low) / (high - low) if high > low else 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colours(depth), edgecolor=_PAPER, linewidth=1.0))
            _write(axes, x, y, _figure(tried, most), _PAPER if depth > 0.55 else _INK)
    if response.chosen:
        x, y = response.rates.index(response.chosen[0]), response.decays.index(response.chosen[1])
        axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=_CHOSEN, linewidth=1.8))
    axes.set_xlim(-0.5, len(response.rates) - 0.5)
    axes.set_ylim(-0.5, len(response.decays) - 0.5)
    axes.set_xticks(range(len(response.rates)), [_text(rate) for rate in response.rates])
    axes.set_yticks(range(len(response.decays)), [_text(decay) for decay in response.decays])
    axes.set_xlabel(response.axes[0], fontsize=NORMAL)
    axes.set_ylabel(response.axes[1], fontsize=NORMAL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _line(axes: Axes, response: Response) -> None:
    """Draw the values evenly spaced, so that a distant value does not crowd the others together."""
    of_rate = len(response.rates) > 1
    values = response.rates if of_rate else response.decays
    places: list[Place] = [(value, response.decays[0]) if of_rate else (response.rates[0], value) for value in values]
    known = [x for x, place in enumerate(places) if place in response.tried]
    heights = [100 * response.tried[places[x]].accuracy for x in known]
    axes.plot(known, heights, color=_LINE, linewidth=1.2, marker="o", ms=4, zorder=2)
    for x, place in enumerate(places):
        if place in response.failed:
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
    if response.chosen:
        x = places.index(response.chosen)
        axes.plot(
            x, 100 * response.tried[response.chosen].accuracy, "o", ms=9, mfc="none", mec=_CHOSEN, mew=1.8, zorder=3
        )
    axes.set_xticks(range(len(values)), [_text(value) for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.margins(y=0.15)
    axes.set_xlabel(response.axes[0] if of_rate else response.axes[1], fontsize=NORMAL)
    axes.set_ylabel("validation accuracy (%)", fontsize=NORMAL)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)


def _legend(found: Mapping[str, Response]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    if any(response.chosen for response in found.values()):
        handles.append(Patch(fill=False, edgecolor=_CHOSEN, linewidth=1.8, label="chosen"))
    if any(len(response.tried) < len(response.rates) * len(response.decays) for response in found.values()):
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
