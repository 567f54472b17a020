"""This module reads SmallNORB: 24,300 training and as many test pairs of grey images of 50 toys, 96 px, from 9
elevations and 18 azimuths (LeCun et al., 2004).

smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat    (24300, 2, 96, 96) uint8, left and right; -testing-dat.mat
smallnorb-5x46789x9x18x6x2x96x96-training-info.mat   (24300, 4) int32: instance, elevation, azimuth, lighting
A file     int32 magic number, int32 dimensions, at least three int32 sizes, the values row by row; little-endian
"""

import gzip
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
from peft_vision.data.numpy_files import num_bytes
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import home, reading, require
from peft_vision.data.vtab.choice import first_thousand, percent, tfds_order
from peft_vision.data.vtab.labels import CLASSES, smallnorb_azimuth, smallnorb_elevation
from peft_vision.data.vtab.pictures import Rows, picked

_KINDS = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}  # by magic number
_FILES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
_SIDE = 96  # pixels
_LARGEST = 2**24  # bytes of an info file, 0.4 million as published
_CHUNK = 512  # pairs read at a time, 9 MiB
_LABELS: Mapping[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {  # column of info, and VTAB's label of it
    "smallnorb_azimuth": (2, smallnorb_azimuth),
    "smallnorb_elevation": (1, smallnorb_elevation),
}


def read(task: str, root: Path) -> Release:
    """Return the left images. One half of the official test part is the validation part, the other the test part."""
    folder = home(root, "smallnorb")
    require(
        folder,
        [f"{name}-{part}.mat*" for name in _FILES.values() for part in ("dat", "info")],
        what="parts of SmallNORB",
        source="SmallNORB is at cs.nyu.edu/~ylclab/data/norb-v1.0-small (six .mat.gz, 263 MB; packed or not)",
    )
    infos = {split: _either(folder, f"{name}-info.mat") for split, name in _FILES.items()}
    train, test = (
        _split(task, _either(folder, f"{name}-dat.mat"), infos[split], split) for split, name in _FILES.items()
    )
    release = first_thousand(
        train, percent(test, 0, 50), percent(test, 50, 100), classes=CLASSES[task], files=list(infos.values())
    )
    (train,) = train.pictures.only([release.train])
    val, test = test.pictures.only([release.val, release.test])
    return replace(release, train=train, val=val, test=test)


def _either(folder: Path, name: str) -> Path:
    """Return the unpacked file if it exists, else its .gz."""
    return folder / name if (folder / name).is_file() else folder / f"{name}.gz"


def _split(task: str, dat: Path, info: Path, split: str) -> Labelled:
    column, label = _LABELS[task]
    with _opened(dat) as file:
        shape, pixel = _header(file)
        if dat.suffix != ".gz":
            _require_size(dat, file.tell(), shape, pixel)
    with _opened(info) as file:
        sizes, kind = _header(file)
        table = np.frombuffer(file.read(_LARGEST), kind)
    if shape[1:] != (2, _SIDE, _SIDE) or pixel != np.uint8:
        found = f"{shape} {pixel}"
        raise ConfigError(f"data.root: {dat} holds an array of {found}, should hold image pairs, (n, 2, 96, 96) uint8")
    if sizes != (shape[0], 4) or len(table) != 4 * shape[0]:
        raise ConfigError(
            f"data.root: {info} holds an array of {sizes}, should hold {(shape[0], 4)}: {dat.name} has {shape[0]} pairs"
        )
    labels = np.array(label(table.reshape(sizes)[:, column]))
    if not 0 <= labels.min() <= labels.max() < len(CLASSES[task]):
        raise ConfigError(f"data.root: {info} has labels {labels.min()} to {labels.max()}, beyond VTAB's classes")
    pictures = Rows(dat, np.arange(shape[0]), fetch=_left, image=_picture)
    return tfds_order(labelled(pictures, labels), split, range(shape[0]))


def _left(file: Path, rows: np.ndarray) -> np.ndarray:
    """Return the left images of `rows`, uint8 (n, 96, 96)."""
    with _opened(file) as opened:
        (count, _, *size), kind = _header(opened)
        return picked(_chunks(opened, count, tuple(size), kind), rows, lambda chunk: chunk[:, 0])


def _chunks(file: IO[bytes], count: int, size: tuple[int, ...], kind: np.dtype) -> Iterator[np.ndarray]:
    """Yield arrays (n, 2, H, W), from the position after the header."""
    for start in range(0, count, _CHUNK):
        shape = (min(_CHUNK, count - start), 2, *size)
        yield np.frombuffer(file.read(int(np.prod(shape))), kind).reshape(shape)


def _require_size(path: Path, start: int, shape: tuple[int, ...], kind: np.dtype) -> None:
    wanted, found = start + num_bytes(shape, kind), path.stat().st_size
    if found != wanted:
        raise ValueError(f"{found:,} bytes, should be {wanted:,} for {shape} {kind}")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of the values that follow. ValueError for a malformed header."""
    magic, dimensions = np.frombuffer(file.read(8), "<i4").tolist()
    if magic not in _KINDS or not 1 <= dimensions <= 4:
        raise ValueError(f"magic number {magic:#x}")
    sizes = np.frombuffer(file.read(4 * max(3, dimensions)), "<i4")
    if len(sizes) < dimensions or sizes.min() < 1:
        raise ValueError(f"sizes {sizes.tolist()}")
    return tuple(sizes[:dimensions].tolist()), _KINDS[magic]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Yield the file, unpacked. ConfigError if the block cannot read it as expected."""
    with reading(path, "a matrix of SmallNORB"), open_regular(path) as binary:
        yield gzip.GzipFile(fileobj=binary) if path.suffix == ".gz" else binary


def _picture(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(grey).convert("RGB")


READERS: Mapping[str, Reader] = {task: partial(read, task) for task in _LABELS}
