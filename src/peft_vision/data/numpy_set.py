"""This module reads a user's own arrays: images and labels of each split, in one archive or in a folder.

    path.npz                  train_images train_labels [val_images val_labels] test_images test_labels
    path/train_images.npy     the same names, a file each; only the images that are read are taken into memory

That is the format of MedMNIST (Yang et al., 2023, arXiv:2110.14795). Images are (n, H, W), (n, H, W, C) or
(n, C, H, W) of uint8 or uint16, where the channels are the smaller end, the last one if both are equal; labels are
whole numbers, (n,) or (n, 1).
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.core.output import shown
from peft_vision.core.records import open_regular
from peft_vision.data.arrays import Arrays
from peft_vision.data.base import Data
from peft_vision.data.numpy_files import load_array, read_values
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import first_few, located, reading, whole_numbers
from peft_vision.data.splits import LabelledSets

_KEY = "data.path"
_SPLITS = ("train", "val", "test")
_NAMES = {f"{split}_{kind}.npy" for split in _SPLITS for kind in ("images", "labels")}
_LARGEST = 2**36  # bytes of an array; the file itself says how much it holds
_MOST_CLASSES = 2**20


@component
class NumpyArrays(Data):
    """Images and labels in NumPy's files. `classes`: the names of the classes in the order of their labels; None: the
    labels that the training images have, which must then be all there are."""

    path: Annotated[str, FILE]
    classes: Annotated[list[str], Field(min_length=2)] | None

    def open(self) -> LabelledSets:
        """Return the splits. ConfigError for arrays that are missing, or are not images and a label for each."""
        root = located(self.path)
        found = _in_folder(root) if root.is_dir() else _in_archive(root)
        wanted = [f"{split}_{kind}" for split in ("train", "test") for kind in ("images", "labels")]
        if ("val_images" in found) != ("val_labels" in found):
            wanted += ["val_images", "val_labels"]
        if missing := [name for name in wanted if name not in found]:
            raise ConfigError(f"{_KEY}: {shown(root)} has no {' and no '.join(missing)}; it has {_held(found)}")
        splits = [split for split in _SPLITS if f"{split}_labels" in found]
        numbers = {split: _labels(found, split, root) for split in splits}
        ids = self._ids(numbers, root)
        parts: dict[str, Labelled] = {
            split: labelled(Arrays(_images(found, split, root)), np.searchsorted(ids, numbers[split]))
            for split in splits
        }
        names = tuple(str(number) for number in ids) if self.classes is None else tuple(self.classes)
        files = tuple(sorted(root.glob("*_labels.npy"))) if root.is_dir() else (root,)
        return LabelledSets(
            *(shown(root), parts["train"], parts.get("val"), parts["test"], names),
            remark="",
            files=files,
        )

    def _ids(self, numbers: Mapping[str, np.ndarray], root: Path) -> np.ndarray:
        """Return the labels of the classes, ascending. ConfigError for a label that is none of them."""
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ConfigError("data.classes: a name comes twice")
        ids = np.unique(numbers["train"]) if self.classes is None else np.arange(len(self.classes))
        for split, labels in numbers.items():
            strange = np.setdiff1d(labels, ids)
            if len(strange):
                of = "the training labels" if self.classes is None else f"0 to {len(ids) - 1}, as data.classes says"
                raise ConfigError(f"{_KEY}: {split}_labels in {shown(root)} has {strange[0]}, which is not among {of}")
        return ids


def _in_folder(root: Path) -> dict[str, np.ndarray]:
    return {path.stem: load_array(path, key=_KEY) for path in sorted(root.glob("*.npy")) if path.name in _NAMES}


def _in_archive(root: Path) -> dict[str, np.ndarray]:
    if not root.exists():
        raise ConfigError(f"{_KEY}: no file or folder {shown(root)}")
    found = {}
    with (
        reading(root, "an archive of NumPy's arrays (.npz)", key=_KEY),
        open_regular(root) as binary,
        zipfile.ZipFile(binary) as archive,
    ):
        for member in archive.infolist():
            if member.filename in _NAMES:
                with archive.open(member) as stream:
                    values = read_values(stream, size=member.file_size, largest=_LARGEST)
                found[member.filename.removesuffix(".npy")] = values
    return found


def _held(found: Mapping[str, np.ndarray]) -> str:
    return first_few(sorted(found)) if found else "no arrays of such names"


def _labels(found: Mapping[str, np.ndarray], split: str, root: Path) -> np.ndarray:
    values, count = found[f"{split}_labels"], len(found[f"{split}_images"])
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    name = root / f"{split}_labels"
    return whole_numbers(values, name, within=(0, _MOST_CLASSES), per=(count, f"{split}_images"), key=_KEY)


def _images(found: Mapping[str, np.ndarray], split: str, root: Path) -> np.ndarray:
    values = found[f"{split}_images"]
    if values.dtype not in (np.uint8, np.uint16) or values.ndim not in (3, 4) or 0 in values.shape:
        held = f"{split}_images of {values.dtype} {values.shape}"
        raise ConfigError(f"{_KEY}: {shown(root)} holds {held}, should be uint8 or uint16 (n, height, width, channels)")
    return np.moveaxis(values, 1, -1) if values.ndim == 4 and values.shape[1] < values.shape[3] else values
