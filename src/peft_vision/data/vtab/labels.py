"""This module computes the labels of VTAB's structured tasks for data sets that have none of their own (Zhai et al.,
2019, arXiv:1910.04867).

A distance belongs to the class of the highest threshold that it exceeds, compared in float32 as in the benchmark.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

Numbers = TypeVar("Numbers", int, np.ndarray)

KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
"""KITTI's object types, in the order of their numbers."""

CLASSES = {
    "clevr_count": tuple(f"{count} objects" for count in range(3, 11)),
    "clevr_distance": ("up to 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "over 10"),
    "kitti": ("up to 8 m", "8 to 20 m", "over 20 m", "no vehicle"),
    "dsprites_location": tuple(f"position {2 * x} and {2 * x + 1}" for x in range(16)),
    "dsprites_orientation": tuple(f"orientation {(5 * sixteenth + 1) // 2} on" for sixteenth in range(16)),
    "smallnorb_azimuth": tuple(f"{20 * azimuth} degrees" for azimuth in range(18)),
    "smallnorb_elevation": tuple(f"{30 + 5 * elevation} degrees" for elevation in range(9)),
}
"""The class names of the labels computed below, by task."""

_VEHICLES = 3  # the first 3 of KITTI_TYPES are vehicles
_NO_VEHICLE = 1000.0  # metres
_CLEVR_THRESHOLDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_THRESHOLDS = (-100.0, 8.0, 20.0, 999.0)  # metres


def clevr_count(num_objects: int) -> int:
    """Return the class of a number of objects, 3 to 10: 8 classes."""
    return num_objects - 3


def clevr_distance(depths: Iterable[float]) -> int:
    """Return the class, of 6, of the nearest object; `depths` are the third of each object's `pixel_coords`."""
    return _above(_CLEVR_THRESHOLDS, min(depths))


def kitti_distance(types: Sequence[int], depths: Sequence[float]) -> int:
    """Return the class, of 4, of the nearest vehicle; the last means no vehicle. `types`: positions in KITTI_TYPES;
    `depths`: z in metres."""
    vehicles = [depth for kind, depth in zip(types, depths, strict=True) if kind < _VEHICLES]
    return _above(_KITTI_THRESHOLDS, min([*vehicles, _NO_VEHICLE]))


def dsprites_location(x: Numbers) -> Numbers:
    """Return the class of a position: 16 classes of 2 positions each."""
    return x // 2


def dsprites_orientation(orientation: Numbers) -> Numbers:
    """Return the class of one of 40 orientations: 16 classes of 2 or 3 orientations each."""
    return orientation * 2 // 5


def smallnorb_azimuth(azimuth: Numbers) -> Numbers:
    """Return the class, one of 18, of a published azimuth: 0, 2, ..., 34, in units of 10 degrees."""
    return azimuth // 2


def smallnorb_elevation(elevation: Numbers) -> Numbers:
    """Return the class, of 9, of a published elevation: 0 to 8, for 30 to 70 degrees."""
    return elevation


def _above(thresholds: Sequence[float], distance: float) -> int:
    """Return the position of the highest threshold that `distance` exceeds, or -1."""
    return int(np.searchsorted(np.asarray(thresholds, np.float32), np.float32(distance), side="left")) - 1
