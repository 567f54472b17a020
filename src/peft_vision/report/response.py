"""How validation accuracy answers to learning rate and weight decay, among the settings that were tried."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft_vision.report.choose import Setting
from peft_vision.report.problems import Problem

LR, DECAY = "optimizer.lr", "optimizer.weight_decay"

Place = tuple[float | None, float | None]
"""Learning rate and weight decay; None of a setting that has none."""


@dataclass(frozen=True)
class Tried:
    """`accuracy`: mean over seeds; the best of the settings with this rate and decay."""

    accuracy: float
    seeds: int


@dataclass(frozen=True)
class Response:
    """The response of one method on one data set. `failed`: places where every run failed."""

    rates: tuple[float | None, ...]
    decays: tuple[float | None, ...]
    tried: Mapping[Place, Tried]
    failed: frozenset[Place]
    chosen: Place | None


def responses(problem: Problem) -> dict[str, Response]:
    """By method; of those with several rates or decays, two of which have an accuracy at least."""
    found = {method: _response(problem, method) for method in problem.methods}
    return {method: its for method, its in found.items() if len(its.tried) > 1}


def _response(problem: Problem, method: str) -> Response:
    tried: dict[Place, Tried] = {}
    for setting in problem.candidates(method):
        place, accuracy = _place(setting.runs[0].setting), setting.validation
        if accuracy is not None and (place not in tried or accuracy > tried[place].accuracy):
            tried[place] = Tried(accuracy, len(setting.runs))
    attempts = problem.attempts.get(method, ())
    failed = {_place(its.setting) for out, its in attempts if out.kind == "failed" and its.setting} - set(tried)
    places = {*tried, *failed}
    chosen = problem.chosen.get(method)
    return Response(
        rates=_sorted({rate for rate, _ in places}),
        decays=_sorted({decay for _, decay in places}),
        tried=tried,
        failed=frozenset(failed),
        chosen=_chosen(chosen, tried),
    )


def _chosen(setting: Setting | None, tried: Mapping[Place, Tried]) -> Place | None:
    place = _place(setting.runs[0].setting) if setting else None
    return place if place in tried else None


def _place(setting: Mapping[str, Any]) -> Place:
    rate, decay = (setting.get(key) for key in (LR, DECAY))
    return _number(rate), _number(decay)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _sorted(values: set[float | None]) -> tuple[float | None, ...]:
    return tuple(sorted(values, key=lambda value: (value is not None, value or 0.0)))
