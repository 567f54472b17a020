"""This module lists where TensorFlow Datasets keeps VTAB-1k's data sets, which slices of them its splits are, and how
labels are computed (Zhai et al., 2019, arXiv:1910.04867; versions as in Jia et al., 2022, arXiv:2203.12119)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from peft_vision.data.vtab.labels import (
    clevr_count,
    clevr_distance,
    dsprites_location,
    dsprites_orientation,
    kitti_distance,
)
from peft_vision.data.vtab.tfrecord import number, numbers

Features = Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """A slice of a split, from `start` to `end` per cent."""

    split: str
    start: int = 0
    end: int = 100


@dataclass(frozen=True)
class Prepared:
    """A data set as prepared. `folder`: the parent of the folders of its versions. `label`: computes the label from an
    example's features. `silhouettes`: pixels are 0 and 1."""

    folder: str
    version: str
    val: Slice
    test: Slice
    label: Callable[[Features], int]
    silhouettes: bool = False

    @property
    def train(self) -> Slice:
        """The slice of train before the validation images if these are taken from train, else all of train."""
        return Slice("train", end=self.val.start if self.val.split == "train" else 100)

    @property
    def name(self) -> str:
        """Return the prefix of the data set's file names."""
        return self.folder.partition("/")[0]


def _of(feature: str) -> Callable[[Features], int]:
    return lambda features: number(features, feature)


def _clevr_count(features: Features) -> int:
    return clevr_count(len(numbers(features, "objects/size", np.int64)))


def _clevr_distance(features: Features) -> int:
    return clevr_distance(numbers(features, "objects/pixel_coords", np.float32).reshape(-1, 3)[:, 2].tolist())


def _kitti(features: Features) -> int:
    types, places = (
        numbers(features, name, kind) for name, kind in (("objects/type", np.int64), ("objects/location", np.float32))
    )
    return kitti_distance(types.tolist(), places.reshape(-1, 3)[:, 2].tolist())


def _dsprites(feature: str, label: Callable[[int], int]) -> Callable[[Features], int]:
    return lambda features: label(number(features, feature))


_VALIDATION, _TEST = Slice("validation"), Slice("test")
_FIFTHS = Slice("train", 60, 80), Slice("train", 80)
_HALVES = Slice("test", end=50), Slice("test", 50)
_TENTHS = Slice("train", 80, 90), Slice("train", 90)
_CLEVR = Slice("train", 90), _VALIDATION

PREPARED = {
    "caltech101": Prepared("caltech101", "3.0.1", Slice("train", 90), _TEST, _of("label")),
    "cifar100": Prepared("cifar100", "3.0.2", Slice("train", 90), _TEST, _of("label")),
    "dtd": Prepared("dtd", "3.0.1", _VALIDATION, _TEST, _of("label")),
    "flowers102": Prepared("oxford_flowers102", "2.1.1", _VALIDATION, _TEST, _of("label")),
    "pets": Prepared("oxford_iiit_pet", "3.2.0", Slice("train", 80), _TEST, _of("label")),
    "svhn": Prepared("svhn_cropped", "3.0.0", Slice("train", 90), _TEST, _of("label")),
    "sun397": Prepared("sun397/tfds", "4.0.0", _VALIDATION, _TEST, _of("label")),
    "camelyon": Prepared("patch_camelyon", "2.0.0", _VALIDATION, _TEST, _of("label")),
    "eurosat": Prepared("eurosat/rgb", "2.0.0", *_FIFTHS, _of("label")),
    "resisc45": Prepared("resisc45", "3.0.0", *_FIFTHS, _of("label")),
    "retinopathy": Prepared("diabetic_retinopathy_detection/btgraham-300", "3.0.0", _VALIDATION, _TEST, _of("label")),
    "clevr_count": Prepared("clevr", "3.1.0", *_CLEVR, _clevr_count),
    "clevr_distance": Prepared("clevr", "3.1.0", *_CLEVR, _clevr_distance),
    "dmlab": Prepared("dmlab", "2.0.1", _VALIDATION, _TEST, _of("label")),
    "kitti": Prepared("kitti", "3.2.0", _VALIDATION, _TEST, _kitti),
    "dsprites_location": Prepared(
        "dsprites", "2.0.0", *_TENTHS, _dsprites("label_x_position", dsprites_location), silhouettes=True
    ),
    "dsprites_orientation": Prepared(
        "dsprites", "2.0.0", *_TENTHS, _dsprites("label_orientation", dsprites_orientation), silhouettes=True
    ),
    "smallnorb_azimuth": Prepared("smallnorb", "2.0.0", *_HALVES, _of("label_azimuth")),
    "smallnorb_elevation": Prepared("smallnorb", "2.0.0", *_HALVES, _of("label_elevation")),
}
