"""This module reads VTAB-1k, with the benchmark's own choice of images, from files of TensorFlow Datasets, without
TensorFlow (Zhai et al., 2019, arXiv:1910.04867; versions as in Jia et al., 2022, arXiv:2203.12119).

root/cifar100/3.0.2/dataset_info.json  cifar100-train.tfrecord-00000-of-00001  cifar100-test.tfrecord-00000-of-00001

Splits are slices of the stored order: the first 800 of train, the first 200 of another split or of train's held-out
end.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.records import exists, open_regular
from peft_vision.data.bands import Bands
from peft_vision.data.benchmark import TASKS, TRAIN, VAL, BenchmarkSet, Release
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import BROKEN, read_json, read_lines, reading, reason, require
from peft_vision.data.vtab.labels import (
    clevr_count,
    clevr_distance,
    dsprites_location,
    dsprites_orientation,
    kitti_distance,
)
from peft_vision.data.vtab.tfrecord import Encoded, Place, example, number, numbers, place_of, records

Features = Mapping[str, Any]
_INFO = "dataset_info.json"
_LONGEST_NAME = 100  # characters of a class name


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


_WHITENED = b"1 is white"
"""The bytes that tell silhouettes from their files, and from what was trained on while 1 reached a model as 1."""


class Silhouettes(Encoded):
    """Images whose pixels are stored as 0 and 1 and are read as black and white."""

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        picture = super().with_channels(index, channels)
        if isinstance(picture, Bands):
            return Bands(np.minimum(picture.values, 1) * np.uint8(255))
        return picture.point(lambda value: min(255 * value, 255))

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        return chain([_WHITENED], super().identify(indices))

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        return (content + _WHITENED for content in super().contents(indices))


@dataclass(frozen=True)
class _PreparedFolder:
    """A folder with one version of a data set; `lengths`: the numbers of records in the files of each split."""

    path: Path
    prepared: Prepared
    lengths: dict[str, list[int]]

    def take(self, part: Slice, most: int | None, task: str) -> Labelled:
        """Return the first `most` images of a slice, or all of them."""
        total = sum(self.lengths[part.split])
        start, end = (round(share * total / 100) for share in (part.start, part.end))
        end = end if most is None else min(start + most, end)
        places, labels = [], []
        before = 0
        for shard, length in enumerate(self.lengths[part.split]):
            first, last = max(start - before, 0), min(end - before, length)
            before += length
            if first < last:
                file = self.file(part.split, shard)
                stamp = file.stat()
                found = _records(file, (stamp.st_mtime_ns, stamp.st_size, stamp.st_ino), task, first, last, length)
                places += [place for place, _ in found]
                labels += [label for _, label in found]
        pictures = Silhouettes(places) if self.prepared.silhouettes else Encoded(places)
        return labelled(pictures, labels)

    def file(self, split: str, shard: int) -> Path:
        return self.path / f"{self.prepared.name}-{split}.tfrecord-{shard:05d}-of-{len(self.lengths[split]):05d}"


def read_prepared(root: Path, task: BenchmarkSet) -> Release:
    """Return the release. ConfigError unless every file of its splits exists, with as many records as noted for it."""
    folder = _folder(root, PREPARED[task.name])
    prepared = folder.prepared
    version = folder.path.name
    other = f"prepared as version {version}; the official list is of {prepared.version}"
    return Release(
        train=folder.take(prepared.train, TRAIN, task.name),
        val=folder.take(prepared.val, VAL, task.name),
        test=folder.take(prepared.test, None, task.name),
        classes=_classes(folder.path, task),
        files=(folder.path / _INFO,),
        remark=other if version != prepared.version else "",
        chosen=True,
    )


@cache  # a run opens its data set several times, and finding labels means reading whole records
def _records(
    file: Path, stamp: tuple[int, int, int], task: str, first: int, last: int, count: int
) -> tuple[tuple[Place, int], ...]:
    """Return image and label of records `first` to `last` of the `count` in `file`. `stamp`: its modification time,
    size and inode, so that a replaced file is not taken from the cache."""
    spans = list(records(file))
    if len(spans) != count:
        raise ConfigError(f"data: {file} has {len(spans):,} records, should have {count:,}; prepare it anew")
    found, last_label = [], TASKS[task].num_classes - 1
    with open_regular(file) as stream:
        for offset, length in spans[first:last]:
            stream.seek(offset)
            payload = stream.read(length)
            try:
                features = example(payload)
                place, label = place_of(features["image"][0], file, payload, offset), PREPARED[task].label(features)
            except BROKEN as error:
                raise ConfigError(
                    f"data: {file} has no image and label of {PREPARED[task].folder} at byte {offset} ({reason(error)})"
                ) from error
            if not 0 <= label <= last_label:
                raise ConfigError(f"data: {file} has label {label} at byte {offset}, should be 0 to {last_label}")
            found.append((place, label))
    return tuple(found)


def _folder(root: Path, prepared: Prepared) -> _PreparedFolder:
    place = root / prepared.folder
    source = (
        f"where TensorFlow Datasets is installed, tfds.load({prepared.folder!r}, data_dir=...) prepares it; data.root "
        "is that data_dir"
    )
    require(root, [f"{prepared.folder}/*/{_INFO}"], what=f"parts of {prepared.folder}", source=source)
    versions = sorted(path.parent for path in place.glob(f"*/{_INFO}"))
    path = next((version for version in versions if version.name == prepared.version), versions[-1])
    splits = {"train", prepared.val.split, prepared.test.split}
    folder = _PreparedFolder(path, prepared, _lengths(path / _INFO, splits))
    files = [folder.file(split, shard) for split in sorted(splits) for shard in range(len(folder.lengths[split]))]
    require(path, [file.name for file in files], what=f"files of {_INFO}", source="prepare it anew")
    return folder


def _lengths(file: Path, splits: set[str]) -> dict[str, list[int]]:
    expected = f"the numbers of records in the files of {', '.join(sorted(splits))}"
    info = read_json(file, expected, remedy="prepare it anew")
    with reading(file, expected, remedy="prepare it anew"):
        noted = {split["name"]: split["shardLengths"] for split in info["splits"]}
        lengths = {split: [int(length) for length in noted[split]] for split in splits}
        if any(not counts or min(counts) < 0 for counts in lengths.values()):
            raise ValueError("numbers that are none of records")
        return lengths


def _classes(folder: Path, task: BenchmarkSet) -> tuple[str, ...]:
    """Return the class names in label.labels.txt; without this file the task computes its own labels, and names are
    numbers."""
    file = folder / "label.labels.txt"
    if not exists(file):
        return tuple(str(label) for label in range(task.num_classes))
    names = tuple(name for name in read_lines(file, "the names of the classes", remedy="prepare it anew") if name)
    if not len(names) == len(set(names)) == task.num_classes or max(map(len, names)) > _LONGEST_NAME:
        raise ConfigError(
            f"data.root: {file} names {len(set(names))} classes in {len(names)} lines, should name {task.num_classes}; "
            "prepare it anew"
        )
    return names
