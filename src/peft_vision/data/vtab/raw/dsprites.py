"""This module reads dSprites: 737,280 white shapes on black, 64 px, of 3 x 6 x 40 x 32 x 32 properties (Matthey et al.,
2017).

dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz
    imgs (n, 64, 64) uint8 of 0 and 1; latents_classes (n, 6) of colour, shape, scale, orientation, x, y
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular
from peft_vision.data.benchmark import Reader, Release
from peft_vision.data.numpy_files import read_head, read_values
from peft_vision.data.pictures import labelled
from peft_vision.data.reading import home, reading, require, whole_numbers
from peft_vision.data.vtab.choice import first_thousand, percent, tfds_order
from peft_vision.data.vtab.labels import CLASSES, dsprites_location, dsprites_orientation
from peft_vision.data.vtab.pictures import Rows, picked

_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_TRAIN, _VAL = 80, 90  # percent, the ends of the train and the validation part
_CHUNK = 4096  # images unpacked at a time, 16 MiB
_SIDE = 64  # pixels
_PROPERTIES = 6
_LARGEST = 2**28  # bytes of latents_classes, 35 million as published
# column of latents_classes, VTAB's label of it, its highest value
_LABELS: Mapping[str, tuple[int, Callable[[np.ndarray], np.ndarray], int]] = {
    "dsprites_location": (4, dsprites_location, 31),
    "dsprites_orientation": (3, dsprites_orientation, 39),
}


def read(task: str, root: Path) -> Release:
    """Return VTAB's own slices: 80, 10 and 10 %. All images would take 3 GB, so only the chosen ones are unpacked, and
    kept as bits."""
    folder = home(root, "dsprites")
    site = "github.com/google-deepmind/dsprites-dataset"
    require(folder, [_FILE], what="parts of dSprites", source=f"dSprites is at {site}")
    file = folder / _FILE
    column, label, most = _LABELS[task]
    shape, classes = _shape_and_classes(file)
    if classes.ndim != 2 or classes.shape[1] != _PROPERTIES:
        raise ConfigError(f"data.root: {file} has labels of shape {classes.shape}, should be (n, {_PROPERTIES})")
    values = whole_numbers(classes[:, column], file, within=(0, most))
    if shape != (len(classes), _SIDE, _SIDE):
        raise ConfigError(
            f"data.root: {file} has images of shape {shape} and {len(classes)} labels, "
            f"should have {(len(classes), _SIDE, _SIDE)}\nfetch it again from {site}"
        )
    pictures = Rows(file, np.arange(len(classes)), fetch=_bits, image=_picture)
    images = tfds_order(labelled(pictures, label(values)), "train", range(len(classes)))
    release = first_thousand(
        percent(images, 0, _TRAIN),
        percent(images, _TRAIN, _VAL),
        percent(images, _VAL, 100),
        classes=CLASSES[task],
        files=[file],
    )
    train, val, test = pictures.only([release.train, release.val, release.test])
    return replace(release, train=train, val=val, test=test)


def _shape_and_classes(file: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the shape of the images, and the classes (n, 6) of all properties."""
    with _opened(file) as archive:
        with archive.open("imgs.npy") as member:
            shape = _header(member)
        name = "latents_classes.npy"
        with archive.open(name) as member:
            return shape, read_values(member, size=archive.getinfo(name).file_size, largest=_LARGEST)


def _bits(file: Path, rows: np.ndarray) -> np.ndarray:
    """Return the images as (n, 512) uint8, 8 pixels per byte."""
    with _opened(file) as archive, archive.open("imgs.npy") as member:
        count = _header(member)[0]
        return picked(_chunks(member, count), rows, lambda chunk: np.packbits(chunk, axis=1))


def _chunks(member: IO[bytes], count: int) -> Iterator[np.ndarray]:
    """Yield arrays (n, 4096) of 0 and 1, from the position after the header."""
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        yield np.frombuffer(member.read(size * _SIDE * _SIDE), np.uint8).reshape(size, _SIDE * _SIDE)


def _header(member: IO[bytes]) -> tuple[int, ...]:
    """Return the shape of the array that follows. ValueError unless it is uint8 in row-major order."""
    shape, by_column, kind = read_head(member)
    if by_column or kind != np.uint8:
        raise ValueError(f"images of {kind}, should be of uint8 row by row")
    return shape


def _picture(bits: np.ndarray) -> Image.Image:
    return Image.fromarray(np.unpackbits(bits).reshape(_SIDE, _SIDE) * np.uint8(255)).convert("RGB")


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Yield the opened archive. ConfigError if the block cannot read it as expected."""
    expected = "an archive of imgs and latents_classes"
    with reading(file, expected), open_regular(file) as binary, zipfile.ZipFile(binary) as archive:
        yield archive


READERS: Mapping[str, Reader] = {task: partial(read, task) for task in _LABELS}
