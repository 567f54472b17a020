"""This module sets up a logarithmic axis with few, plain tick labels: 200, 1k, 85M."""

import math

from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

_MOST = 6  # ticks
_STEPS = ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))  # within a power of ten, the finest first
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MARGIN = 0.1  # fraction of the values' logarithmic range, added at both ends


def set_log(axis: Axis, values: list[float]) -> None:
    """Make the axis logarithmic and show all `values`, which must be above zero."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = _MARGIN * (high - low) or 0.3
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
    for steps in _STEPS:
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= _MOST:
            break
    return found[:: math.ceil(len(found) / _MOST)] if len(found) > 1 else _linear(low, high)


def short(value: float) -> str:
    """Return a value with four significant digits at most, and k, M or G."""
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _linear(low: float, high: float) -> list[float]:
    """Return the ticks of an axis too short for powers of ten and their halves: multiples of 1, 2 or 5 times 10^k."""
    unit = 10.0 ** math.floor(math.log10(high - low))
    step = next(part for part in (unit / 5, unit / 2, unit, 2 * unit) if (high - low) / part <= _MOST - 1)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
