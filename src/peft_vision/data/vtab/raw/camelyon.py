"""This module reads Patch Camelyon: 327,680 patches of lymph nodes, 96 px, with or without a tumour (Veeling et al.,
2018, arXiv:1806.03962).

camelyonpatch_level_2_split_train_x.h5, its x (n, 96, 96, 3) uint8; ..._train_y.h5, its y (n, 1, 1, 1); valid; test
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.core.records import require_regular
from peft_vision.data.benchmark import Release
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import home, reading, require, whole_numbers
from peft_vision.data.vtab.choice import first_thousand, tfds_order
from peft_vision.data.vtab.pictures import Packed

_CLASSES = ("no tumour", "tumour")
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_SIDE = 96  # pixels
_MOST = 2**22  # images, 0.3 million as published
_REMEDY = "unpack it again"


def read(root: Path) -> Release:
    """Return the official splits."""
    folder = home(root, "pcam", "patch_camelyon", "camelyon")
    files = {
        (split, part): f"camelyonpatch_level_2_split_{split}_{part}.h5" for split in _SPLITS.values() for part in "xy"
    }
    require(
        folder,
        list(files.values()),
        what="parts of Patch Camelyon",
        source="Patch Camelyon is at zenodo.org/records/2546921 (six camelyonpatch_level_2_split_*.h5.gz, 8 GB), to be "
        "unpacked",
    )
    parts = {split: _split(folder / files[name, "x"], folder / files[name, "y"]) for split, name in _SPLITS.items()}
    train, val = (
        tfds_order(parts[split], split, [f"{_SPLITS[split]}_{number}" for number in range(len(parts[split]))])
        for split in ("train", "validation")
    )
    labels = [folder / name for (_, part), name in files.items() if part == "y"]
    return first_thousand(train, val, parts["test"], classes=_CLASSES, files=labels)


class Patches(Packed):
    """Pictures that are rows of the array x of an HDF5 file, read one by one."""

    def length(self, index: int) -> None:
        """Return None: each picture costs an access to the file."""

    def values(self, index: int) -> np.ndarray:
        """Open the file anew each time, because an open HDF5 file does not survive a fork into loader processes."""
        require_regular(self.file)
        try:
            with _h5py().File(self.file, "r") as file:
                return _array(file, "x")[index]
        except RuntimeError as error:  # raised by HDF5's filters
            raise OSError(str(error)) from error


def _split(images: Path, labels: Path) -> Labelled:
    h5py = _h5py()
    with reading(images, "an HDF5 file with images x", remedy=_REMEDY), h5py.File(images, "r") as file:
        array = _array(file, "x")
        shape, kind = array.shape, array.dtype
    count, *size = shape or (0,)
    if size != [_SIDE, _SIDE, 3] or kind != np.uint8 or not 0 < count <= _MOST:
        raise ConfigError(f"data.root: {images} holds x of {shape} {kind}, should hold (n, 96, 96, 3) uint8")
    with reading(labels, "an HDF5 file with labels y", remedy=_REMEDY), h5py.File(labels, "r") as file:
        array = _array(file, "y")
        if array.size != count:
            raise ConfigError(f"data.root: {images} holds {count} images, {labels} {array.size or 0} labels")
        values = array[()].reshape(-1)
    return labelled(Patches(images, np.arange(count)), whole_numbers(values, labels, within=(0, 1)))


def _array(file: Any, name: str) -> Any:
    """Return an array stored in the file itself, because HDF5 can refer to any other file. ValueError for any other
    object."""
    link, found = file.get(name, getlink=True), _h5py()
    if not isinstance(link, found.HardLink):
        raise ValueError(f"no {name}" if link is None else f"{name} lies in another place")
    array = file[name]
    if not isinstance(array, found.Dataset):
        raise ValueError(f"{name} is no array")
    if array.external or array.is_virtual:
        raise ValueError(f"{name} lies in another file")
    return array


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("data: Patch Camelyon is in HDF5 files; pip install 'peft-vision[data]'") from error
    return h5py
