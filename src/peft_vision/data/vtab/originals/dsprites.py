"""dSprites: 737,280 white shapes on black, 64 px, of 3 x 6 x 40 x 32 x 32 properties (Matthey et al., 2017).

dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz
    imgs (n, 64, 64) uint8 of 0 and 1; latents_classes (n, 6) of colour, shape, scale, orientation, x, y
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from peft_vision.config import ConfigError
from peft_vision.data.pictures import labelled
from peft_vision.data.vtab.labels import CLASSES, dsprites_location, dsprites_orientation
from peft_vision.data.vtab.order import chosen, percent, stored
from peft_vision.data.vtab.originals.rows import Rows, picked
from peft_vision.data.vtab.presence import home, require
from peft_vision.data.vtab.release import Reader, Release

_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_TRAIN, _VAL = 80, 90  # percent, the ends of the train and the validation part
_CHUNK = 4096  # images unpacked at a time, 16 MiB
_SIDE = 64  # pixels
_LABELS: Mapping[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {  # column of latents_classes, what VTAB asks
    "dsprites_location": (4, dsprites_location),
    "dsprites_orientation": (3, dsprites_orientation),
}


def read(task: str, root: Path) -> Release:
    """VTAB's own slices: 80, 10 and 10 %. The images would be 3 GB: those chosen are unpacked, and kept as bits."""
    folder = home(root, "dsprites")
    site = "github.com/google-deepmind/dsprites-dataset"
    require(folder, [_FILE], what="dSprites", site=site)
    file = folder / _FILE
    column, label = _LABELS[task]
    shape, classes = _shape_and_classes(file)
    if shape != (len(classes), _SIDE, _SIDE):
        raise ConfigError(
            f"data.root: {file} has images of shape {shape} and {len(classes)} labels, "
            f"should have {(len(classes), _SIDE, _SIDE)}\nfetch it again from {site}"
        )
    pictures = Rows(file, np.arange(len(classes)), fetch=_bits, image=_picture)
    images = stored(labelled(pictures, label(classes[:, column])), "train", range(len(classes)))
    release = chosen(
        percent(images, 0, _TRAIN),
        percent(images, _TRAIN, _VAL),
        percent(images, _VAL, 100),
        classes=CLASSES[task],
        files=[file],
    )
    train, val, test = pictures.only([release.train, release.val, release.test])
    return replace(release, train=train, val=val, test=test)


def _shape_and_classes(file: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Of the images, and (n, 6) of all properties."""
    try:
        with zipfile.ZipFile(file) as archive:
            with archive.open("imgs.npy") as member:
                shape = _header(member)
            with archive.open("latents_classes.npy") as member:
                classes = np.lib.format.read_array(member)
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise _damaged(file, error) from error
    return shape, classes


def _bits(file: Path, rows: np.ndarray) -> np.ndarray:
    """(n, 512) of 8 pixels a byte."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("imgs.npy") as member:
            count = _header(member)[0]
            return picked(_chunks(member, count), rows, lambda chunk: np.packbits(chunk, axis=1))
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise _damaged(file, error) from error


def _chunks(member: IO[bytes], count: int) -> Iterator[np.ndarray]:
    """(n, 4096) of 0 and 1, from behind the header."""
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        yield np.frombuffer(member.read(size * _SIDE * _SIDE), np.uint8).reshape(size, _SIDE * _SIDE)


def _header(member: IO[bytes]) -> tuple[int, ...]:
    """The shape of the array that follows, row by row and of one byte a value."""
    version = np.lib.format.read_magic(member)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, by_column, kind = reader(member)
    if by_column or kind != np.uint8:
        raise ValueError(f"images of {kind}, should be of uint8 row by row")
    return shape


def _picture(bits: np.ndarray) -> Image.Image:
    return Image.fromarray(np.unpackbits(bits).reshape(_SIDE, _SIDE) * np.uint8(255)).convert("RGB")


def _damaged(file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"data.root: cannot read {file} ({type(error).__name__}: {error}); fetch it again")


READERS: Mapping[str, Reader] = {task: partial(read, task) for task in _LABELS}
