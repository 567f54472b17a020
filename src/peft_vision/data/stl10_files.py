"""This module reads STL-10's binary files (Coates et al., 2011), for the data set and for the distribution shift.

X.bin  uint8 (n, 3, 96, 96), each channel in column-major order
y.bin  uint8 (n,), from 1
class_names.txt
"""

import os
from pathlib import Path

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular, read_bytes
from peft_vision.data.reading import read_lines, reading
from peft_vision.data.whole_numbers import whole_numbers

_CLASSES = 10
_LONGEST_NAME = 100
_SIDE = 96
_BYTES = 3 * _SIDE * _SIDE
_MOST = 2**20  # images


def images(path: Path, *, key: str) -> np.ndarray:
    """Return uint8 (n, 96, 96, 3), memory-mapped. ConfigError for a truncated file."""
    with reading(path, f"images of {_BYTES} bytes", key=key), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size or size % _BYTES:
            raise ConfigError(
                f"{key}: {path} has {size} bytes, should be {_BYTES} an image; it is cut short: fetch it again"
            )
        columns = np.memmap(file, np.uint8, "r", shape=(size // _BYTES, 3, _SIDE, _SIDE))
    return columns.transpose(0, 3, 2, 1)


def class_ids(path: Path, *, of: Path, count: int, key: str) -> np.ndarray:
    """Return the class ids (count,), from 0, of the images in the file `of`. ConfigError if there are not `count` of
    them."""
    with reading(path, f"{count} labels of a byte each", key=key):
        labels = np.frombuffer(read_bytes(path, largest=_MOST), np.uint8)
    if len(labels) != count:
        raise ConfigError(f"{key}: {path} has {len(labels)} labels, should be {count}, one for each of {of.name}")
    return whole_numbers(labels, path, first=1, last=_CLASSES, key=key) - 1


def class_names(path: Path, *, key: str) -> tuple[str, ...]:
    """Return the ten class names in the order of the labels."""
    names = tuple(
        line.strip() for line in read_lines(path, f"the names of {_CLASSES} classes", key=key) if line.strip()
    )
    if not len(names) == len(set(names)) == _CLASSES or max(map(len, names)) > _LONGEST_NAME:
        raise ConfigError(f"{key}: {path} names {len(set(names))} classes in {len(names)} lines, should be {_CLASSES}")
    return names
