"""This module sets up the axes of pictures: accuracies that lie at their probits or logits and are written in %, and
logarithms with few, plain tick labels such as 200, 1k or 85M."""

import math

from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from peft_vision.report.options import Transform
from peft_vision.report.robustness import scale, unscale

_PERCENT_STEPS = (10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # %, between ticks
_ROUND = 5  # %: steps of this size or more get ticks wherever there is room
_LEAST, _MOST = 3, 7  # ticks of an accuracy
_MARGIN = 0.06  # fraction of the accuracies' range, added at both ends
_EXACT = 10**9  # images: so many that no tick is clipped
_LOG_MOST = 6  # ticks of a logarithm
_LOG_STEPS = ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))  # within a power of ten, the finest first
_LOG_MARGIN = 0.1  # fraction of the values' logarithmic range, added at both ends
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


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
