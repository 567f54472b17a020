"""This module reads CIFAR, SVHN and STL-10 in torchvision's layout: a few large arrays of pictures, with their labels.

torchvision's own readers are not used, because they unpickle anything a file names and trust its shapes. The files of
STL-10 (Coates et al., 2011) serve the data set and the distribution shift:

X.bin  uint8 (n, 3, 96, 96), each channel in column-major order
y.bin  uint8 (n,), from 1
class_names.txt
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular, read_bytes
from peft_vision.data.arrays import Arrays
from peft_vision.data.matlab import read_mat
from peft_vision.data.reading import read_lines, reading, whole_numbers
from peft_vision.data.sequences import Pictures
from peft_vision.data.unpickled import read_pickle

_STL10_CLASSES = 10
_LONGEST_NAME = 100
_STL10_SIDE = 96
_STL10_BYTES = 3 * _STL10_SIDE * _STL10_SIDE
_MOST_LABELS = 2**20  # images
Part = tuple[Pictures, np.ndarray | list[int], tuple[str, ...]]
"""Pictures, their labels, and the class names. The readers raise a ConfigError that names a file without them."""
KEY = "data"
_SIDE = 32  # pixels of CIFAR and SVHN
_LARGEST_SVHN = 2**31  # bytes of the images of one split; the largest that is read has 0.2 billion


def stl10_images(path: Path, *, key: str) -> np.ndarray:
    """Return uint8 (n, 96, 96, 3), memory-mapped. ConfigError for a truncated file."""
    with reading(path, f"images of {_STL10_BYTES} bytes", key=key), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size or size % _STL10_BYTES:
            raise ConfigError(
                f"{key}: {path} has {size} bytes, should be {_STL10_BYTES} an image; it is cut short: fetch it again"
            )
        columns = np.memmap(file, np.uint8, "r", shape=(size // _STL10_BYTES, 3, _STL10_SIDE, _STL10_SIDE))
    return columns.transpose(0, 3, 2, 1)


def stl10_labels(path: Path, *, of: Path, count: int, key: str) -> np.ndarray:
    """Return the class ids (count,), from 0, of the images in the file `of`. ConfigError if there are not `count` of
    them."""
    with reading(path, f"{count} labels of a byte each", key=key):
        labels = np.frombuffer(read_bytes(path, largest=_MOST_LABELS), np.uint8)
    if len(labels) != count:
        raise ConfigError(f"{key}: {path} has {len(labels)} labels, should be {count}, one for each of {of.name}")
    return whole_numbers(labels, path, within=(1, _STL10_CLASSES), key=key) - 1


def stl10_classes(path: Path, *, key: str) -> tuple[str, ...]:
    """Return the ten class names in the order of the labels."""
    names = tuple(
        line.strip() for line in read_lines(path, f"the names of {_STL10_CLASSES} classes", key=key) if line.strip()
    )
    if not len(names) == len(set(names)) == _STL10_CLASSES or max(map(len, names)) > _LONGEST_NAME:
        raise ConfigError(
            f"{key}: {path} names {len(set(names))} classes in {len(names)} lines, should be {_STL10_CLASSES}"
        )
    return names


def cifar10(root: Path, *, train: bool) -> Part:
    """Read CIFAR-10 from its five training batches or its test batch."""
    folder = root / "cifar-10-batches-py"
    batches = [f"data_batch_{number}" for number in range(1, 6)] if train else ["test_batch"]
    return _cifar(folder, batches, "labels", "batches.meta", "label_names", 10)


def cifar100(root: Path, *, train: bool) -> Part:
    """Read CIFAR-100 with its fine labels."""
    batches = ["train" if train else "test"]
    return _cifar(root / "cifar-100-python", batches, "fine_labels", "meta", "fine_label_names", 100)


def svhn(root: Path, *, split: str) -> Part:
    """Read SVHN; its label of the digit 0 is 10, which becomes 0."""
    file = root / f"{split}_32x32.mat"
    pixels, labels = read_mat(file, "X", "y", squeeze=False, largest=_LARGEST_SVHN, key=KEY, remedy="")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (_SIDE, _SIDE, 3):
        raise ConfigError(f"{KEY}: {file} holds X of {pixels.dtype} {pixels.shape}, should be uint8 (32, 32, 3, n)")
    count = pixels.shape[3]
    digits = whole_numbers(labels.reshape(-1), file, within=(1, 10), per=(count, ""), floats=True, key=KEY)
    return Arrays(pixels.transpose(3, 0, 1, 2)), digits % 10, tuple(str(digit) for digit in range(10))


def stl10(root: Path, *, split: str) -> Part:
    """Read the labelled images of STL-10; the unlabelled ones are not read."""
    folder = root / "stl10_binary"
    data, labels = folder / f"{split}_X.bin", folder / f"{split}_y.bin"
    pixels, classes = stl10_images(data, key=KEY), stl10_classes(folder / "class_names.txt", key=KEY)
    return Arrays(np.array(pixels)), stl10_labels(labels, of=data, count=len(pixels), key=KEY), classes


def _cifar(folder: Path, batches: list[str], labels_key: str, meta: str, names_key: str, num_classes: int) -> Part:
    parts = [_batch(folder / batch, labels_key, num_classes) for batch in batches]
    file, expected = folder / meta, f"a pickle of the {num_classes} {names_key}"
    with reading(file, expected, key=KEY, remedy=""):
        names = _pickle(file, expected)[names_key]
        if not isinstance(names, list) or {type(name) for name in names} != {str}:
            raise ValueError("names that are no texts")
        if not len(names) == len(set(names)) == num_classes:
            raise ValueError(f"{len(set(names))} different names")
    rows = np.vstack([pixels for pixels, _ in parts])
    pictures = rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return Arrays(pictures), np.concatenate([labels for _, labels in parts]), tuple(names)


def _batch(file: Path, labels_key: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (n, 3072) and labels (n,) of a batch file."""
    expected = f"a pickle of data and {labels_key}"
    with reading(file, expected, key=KEY, remedy=""):
        content = _pickle(file, expected)
        pixels, labels = content["data"].array(), content[labels_key]
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * _SIDE**2:
            raise ValueError(f"data of {pixels.dtype} {pixels.shape}, should be uint8 (n, 3072)")
        if not isinstance(labels, list) or {type(label) for label in labels} != {int}:
            raise ValueError(f"{labels_key} that are no list of whole numbers")
        last = num_classes - 1
        return pixels, whole_numbers(labels, file, within=(0, last), per=(len(pixels), ""), key=KEY)


def _pickle(file: Path, expected: str) -> Mapping[str, Any]:
    return read_pickle(file, expected, key=KEY, remedy="")
