"""This module finds how validation accuracy responds to learning rate and weight decay, or to a solver's strength C.

It covers the settings that were tried: those of runs, and those that a solver tried within a run.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from peft_vision.report.choose import Setting
from peft_vision.report.problems import TaskResults

LR, DECAY, C = "optimizer.lr", "optimizer.weight_decay", "optimizer.C"
RATES = ("learning rate", "weight decay")
STRENGTHS = ("C (the larger, the weaker the penalty)", "")

Place = tuple[float, float | None]
"""A learning rate and a weight decay (None for a setting without one), or a C and None."""

Axes = tuple[str, str]
"""The names of the two values of a place."""


@dataclass(frozen=True)
class TriedPoint:
    """The result at a place. `accuracy`: mean over seeds, of the best setting there; `seeds`: how many these are."""

    accuracy: float
    seeds: int


@dataclass(frozen=True)
class Response:
    """The response of one method on one data set along `axes`; `rates` and `decays` are the values on the first and the
    second. `failed`: places where every run failed."""

    axes: Axes
    rates: tuple[float, ...]
    decays: tuple[float | None, ...]
    tried: Mapping[Place, TriedPoint]
    failed: frozenset[Place]
    chosen: Place | None


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


def _response(problem: TaskResults, method: str, axes: Axes) -> Response:
    tried: dict[Place, TriedPoint] = {}
    for setting in problem.candidates(method):
        for place, point in _tried(setting, axes):
            if place not in tried or point.accuracy > tried[place].accuracy:
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
    )


def _tried(setting: Setting, axes: Axes) -> Iterator[tuple[Place, TriedPoint]]:
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


def _chosen(setting: Setting | None, tried: Mapping[Place, TriedPoint], axes: Axes) -> Place | None:
    """Return the place of the chosen setting; None unless it was tried and the solver chose the same for all seeds."""
    if setting is None:
        return None
    solved = {_solvers(run.solved.chosen, axes) for run in setting.runs if run.solved}
    places = solved or set(_own_places(setting.runs[0].setting, axes))
    place = places.pop() if len(places) == 1 else None
    return place if place in tried else None


def _own_places(setting: Mapping[str, Any], axes: Axes) -> list[Place]:
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


def _solvers(row: Mapping[str, float], axes: Axes) -> Place | None:
    """Return the place of a setting that a solver tried; None where it has none on these axes."""
    rate = _number(row.get("C" if axes == STRENGTHS else "lr"))
    return None if rate is None else (rate, None if axes == STRENGTHS else _number(row.get("weight_decay")))


def _number(value: Any) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if right else None


def _sorted(values: Iterable[float | None]) -> tuple[float | None, ...]:
    return tuple(sorted(values, key=lambda value: (value is not None, value or 0.0)))
