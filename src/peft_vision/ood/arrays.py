"""This module reads sets published as NumPy files, without unpickling, and refuses files that are not whole."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.core.output import shown
from peft_vision.core.records import open_regular
from peft_vision.data.numpy_files import map_values
from peft_vision.data.reading import reading
from peft_vision.data.whole_numbers import whole_numbers


def require(paths: Iterable[Path], *, source: str) -> None:
    """Raise ConfigError for the first of `paths` that is not a readable file; `source`: where it comes from, and how
    large it is."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"path: no {path}\nit comes from {source}; set path to the folder that holds {path.name}")
        regular(path)


def regular(path: Path) -> Path:
    """Return `path` itself. ConfigError, which names it, unless it is a regular file that can be read."""
    try:
        open_regular(path).close()
    except OSError as error:
        raise ConfigError(f"path: cannot read {shown(path)}: {error.strerror or error}") from error
    return path


def read_array(path: Path, *, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return a uint8 array, memory-mapped rather than read. `shape` has None where any size will do. ConfigError for
    another dtype or shape."""
    array = _load(path)
    fits = array.ndim == len(shape) and all(want in (None, size) for want, size in zip(shape, array.shape, strict=True))
    if array.dtype != np.uint8 or not fits:
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        raise ConfigError(f"path: {path} holds {array.dtype} {array.shape}, should be uint8 ({expected})")
    return array


def class_ids(path: Path, *, of: Path, count: int, classes: tuple[str, ...]) -> np.ndarray:
    """Return the labels of the images in the file `of`: (count,) indices into `classes`. ConfigError for others."""
    return whole_numbers(_load(path), path, first=0, last=len(classes) - 1, count=count, of=of.name, key="path")


def _load(path: Path) -> np.ndarray:
    with reading(path, "a NumPy file of numbers", key="path"):
        return map_values(path)
