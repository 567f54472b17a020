"""This module draws how validation accuracy responds to learning rate and weight decay, or to a solver's strength C.

It covers the settings that were tried: those of runs, and those that a solver tried within a run. A panel is a heat
map, or a line where only one of the two varies or for the strengths of a solver.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.choose import Setting
from peft_vision.report.figures import GRID, NORMAL, SMALL, equal_panels, panel_figure, plain, titled_width
from peft_vision.report.problems import TaskResults

LR, DECAY, C = "optimizer.lr", "optimizer.weight_decay", "optimizer.C"
RATES = ("learning rate", "weight decay")
STRENGTHS = ("C (the larger, the weaker the penalty)", "")
_COLUMNS = 3
_CELL, _LEAST, _LOWEST = 0.44, 1.5, 1.1  # inches, of a cell, and the least width and height of a panel
_MOST = 25.0  # inches, the most for a panel of hundreds of settings
_SMALL = 1e-3  # rates and decays below it are written as powers of ten
_INK, _PAPER = "#111111", "#fefefe"  # colours of text on a coloured cell, which do not follow the page's theme
_HATCHED = {"facecolor": "none", "edgecolor": "#9a9a9a", "hatch": "////", "linewidth": 0.0}
_CHOSEN = "#D55E00"
_LINE = "#4878a8"

Place = tuple[float, float | None]
"""A learning rate and a weight decay (None for a setting without one), or a C and None."""

AxisNames = tuple[str, str]
"""The names of the two values of a place."""


@dataclass(frozen=True)
class TriedPoint:
    """The result at a place. `accuracy`: mean over seeds of it, or of another metric, of the best setting there;
    `seeds`: how many these are."""

    accuracy: float
    seeds: int


@dataclass(frozen=True)
class Response:
    """The response of one method on one data set along `axes`; `rates` and `decays` are the values on the first and the
    second. `failed`: places where every run failed; `metric`: what was measured there."""

    axes: AxisNames
    rates: tuple[float, ...]
    decays: tuple[float | None, ...]
    tried: Mapping[Place, TriedPoint]
    failed: frozenset[Place]
    chosen: Place | None
    metric: Metric = ACCURACY


def responses(problem: TaskResults) -> dict[str, Response]:
    """Return the responses by method, for methods with an accuracy at two places or more. A method for which both rates
    and strengths were tried has a response to each."""
    found: dict[str, Response] = {}
    for method in problem.methods:
        of_method = [
            response for axes in (RATES, STRENGTHS) if len((response := _response(problem, method, axes)).tried) > 1
        ]
        found |= {f"{method}, C" if of_method[1:] and one.axes == STRENGTHS else method: one for one in of_method}
    return found


def _response(problem: TaskResults, method: str, axes: AxisNames) -> Response:
    tried: dict[Place, TriedPoint] = {}
    rank = problem.metric.rank
    for setting in problem.candidates(method):
        for place, point in _tried(setting, axes):
            if place not in tried or rank(point.accuracy) > rank(tried[place].accuracy):
                tried[place] = point
    attempts = problem.attempts.get(method, ())
    of_failed = [
        _own_places(attempt.setting, axes) for out, attempt in attempts if out.kind == "failed" and attempt.setting
    ]
    failed = {place for places in of_failed for place in places} - set(tried)
    places = {*tried, *failed}
    chosen = problem.chosen.get(method)
    return Response(
        axes=axes,
        rates=tuple(sorted({rate for rate, _ in places})),
        decays=_sorted({decay for _, decay in places}),
        tried=tried,
        failed=frozenset(failed),
        chosen=_chosen(chosen, tried, axes),
        metric=problem.metric,
    )


def _tried(setting: Setting, axes: AxisNames) -> Iterator[tuple[Place, TriedPoint]]:
    """Yield the places of a setting with their results: those of its config, or those that its solver tried."""
    if any(run.solved for run in setting.runs):
        accuracies: dict[Place, list[float]] = {}
        for run in setting.runs:
            for row in run.solved.tried if run.solved else ():
                if (place := _solvers(row, axes)) is not None and "val/accuracy" in row:
                    accuracies.setdefault(place, []).append(row["val/accuracy"])
        yield from ((place, TriedPoint(fmean(found), len(found))) for place, found in accuracies.items())
    elif setting.validation is not None:
        for place in _own_places(setting.runs[0].setting, axes):
            yield place, TriedPoint(setting.validation, len(setting.runs))


def _chosen(setting: Setting | None, tried: Mapping[Place, TriedPoint], axes: AxisNames) -> Place | None:
    """Return the place of the chosen setting; None unless it was tried and the solver chose the same for all seeds."""
    if setting is None:
        return None
    solved = {_solvers(run.solved.chosen, axes) for run in setting.runs if run.solved}
    places = solved or set(_own_places(setting.runs[0].setting, axes))
    place = places.pop() if len(places) == 1 else None
    return place if place in tried else None


def _own_places(setting: Mapping[str, Any], axes: AxisNames) -> list[Place]:
    """Return the places that a run's config names: one for a single rate, or one for each C of a list; else none."""
    if axes == STRENGTHS:
        values = setting.get(C)
        return (
            [(value, None) for value in map(_number, values) if value is not None]
            if isinstance(values, list | tuple)
            else []
        )
    rate = _number(setting.get(LR))
    return [] if rate is None else [(rate, _number(setting.get(DECAY)))]


def _solvers(row: Mapping[str, float], axes: AxisNames) -> Place | None:
    """Return the place of a setting that a solver tried; None where it has none on these axes."""
    rate = _number(row.get("C" if axes == STRENGTHS else "lr"))
    return None if rate is None else (rate, None if axes == STRENGTHS else _number(row.get("weight_decay")))


def _number(value: Any) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if right else None


def _sorted(values: Iterable[float | None]) -> tuple[float | None, ...]:
    return tuple(sorted(values, key=lambda value: (value is not None, value or 0.0)))


def response_plot(found: Mapping[str, Response], title: str) -> Figure | None:
    """Draw a panel for each method. None where nothing was varied."""
    if not found:
        return None
    widest = max(min(_MOST, _CELL * len(response.rates)) for response in found.values())
    width = titled_width(max(_LEAST, widest), found)
    height = max(_LOWEST, *(min(_MOST, _CELL * len(response.decays)) for response in found.values()))
    lines = equal_panels(len(found), _COLUMNS, width=width, height=height)
    figure, axes = panel_figure(title, lines, _legend(found), shares_y=False, titled=True)
    for panel_axes, (method, response) in zip(axes, found.items(), strict=True):
        if len(response.rates) > 1 and len(response.decays) > 1:
            _heat_map(panel_axes, response)
        else:
            _line(panel_axes, response)
        panel_axes.set_title(plain(method), fontsize=NORMAL)
    return figure


def _heat_map(axes: Axes, response: Response) -> None:
    rank = response.metric.rank
    ranks = [rank(tried.accuracy) for tried in response.tried.values()]
    low, high = min(ranks), max(ranks)
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
            depth = 0.08 + 0.8 * ((rank(tried.accuracy) - low) / (high - low) if high > low else 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colours(depth), edgecolor=_PAPER, linewidth=1.0))
            _write(axes, x, y, _figure(tried, most, response.metric), _PAPER if depth > 0.55 else _INK)
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
    metric = response.metric
    heights = [metric.scale * response.tried[places[x]].accuracy for x in known]
    axes.plot(known, heights, color=_LINE, linewidth=1.2, marker="o", ms=4, zorder=2)
    for x, place in enumerate(places):
        if place in response.failed:
            axes.axvspan(x - 0.35, x + 0.35, **_HATCHED)
            _write(axes, x, 0.5, "failed", "#000000", rotation=90, transform=axes.get_xaxis_transform())
    if response.chosen:
        x = places.index(response.chosen)
        axes.plot(
            x,
            metric.scale * response.tried[response.chosen].accuracy,
            "o",
            ms=9,
            mfc="none",
            mec=_CHOSEN,
            mew=1.8,
            zorder=3,
        )
    axes.set_xticks(range(len(values)), [_text(value) for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.margins(y=0.15)
    axes.set_xlabel(response.axes[0] if of_rate else response.axes[1], fontsize=NORMAL)
    axes.set_ylabel(f"validation {metric.words}{metric.unit}", fontsize=NORMAL)
    axes.grid(axis="y", **GRID)


def _legend(found: Mapping[str, Response]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    if any(response.chosen for response in found.values()):
        handles.append(Patch(fill=False, edgecolor=_CHOSEN, linewidth=1.8, label="chosen"))
    if any(len(response.tried) < len(response.rates) * len(response.decays) for response in found.values()):
        handles.append(Patch(**_HATCHED, label="not tried, or failed"))
    return handles


def _figure(tried: TriedPoint, most: int, metric: Metric) -> str:
    text = f"{100 * tried.accuracy:.1f}" if metric.is_fraction else f"{tried.accuracy:.3g}"
    return text if tried.seeds == most else f"{text}\n({tried.seeds})"


def _write(axes: Axes, x: float, y: float, text: str, colour: str, **style: Any) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=colour, **style)


def _text(value: float | None) -> str:
    """Return a value short enough for its cell, such as 1e-4."""
    if value is None:
        return "none"
    small = 0 < abs(value) < _SMALL
    return np.format_float_scientific(value, precision=2, trim="-", exp_digits=1) if small else f"{value:g}"
