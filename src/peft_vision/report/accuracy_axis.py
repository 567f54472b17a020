"""This module sets up an axis on which accuracies lie at their probits or logits and are written in %."""

import math

from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator

from peft_vision.report.robustness import Transform, scale, unscale

_STEPS = (10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # %, between ticks
_ROUND = 5  # %: steps of this size or more get ticks wherever there is room
_LEAST, _MOST = 3, 7  # ticks
_MARGIN = 0.06  # fraction of the values' range, added at both ends
_EXACT = 10**9  # images: so many that no tick is clipped


def limits(values: list[float]) -> tuple[float, float]:
    """Return the limits of an axis that shows all `values`, scaled as these are."""
    low, high = min(values), max(values)
    margin = _MARGIN * (high - low) or 0.1
    return low - margin, high + margin


def set_ticks(axis: Axis, ends: tuple[float, float], transform: Transform) -> None:
    """Set the ticks of an axis whose limits, scaled, are `ends`."""
    places = ticks(*ends, transform)
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_major_formatter(FixedFormatter(list(places.values())))


def ticks(low: float, high: float, transform: Transform) -> dict[float, str]:
    """Return the labels, in %, of round accuracies by their scaled places; less round ones only while there are few."""
    first, last = (100 * unscale(end, transform=transform) for end in (low, high))
    places: dict[float, str] = {}
    for step in _STEPS:
        if step < _ROUND and len(places) >= _LEAST:
            break
        for number in range(math.ceil(first / step), math.floor(last / step) + 1):
            percent = number * step
            place = scale(percent / 100, images=_EXACT, transform=transform)
            clear = all(abs(place - other) >= (high - low) / _MOST for other in places)
            if clear and 0 < percent < 100:
                places[place] = f"{percent:g}"
    return places
