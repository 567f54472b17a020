"""Sets that are published as NumPy files: read without unpickling, and refused unless whole."""

from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError

import numpy as np

from peft_vision.config import ConfigError
from peft_vision.data.regular import open_regular
from peft_vision.printable import shown

_NO_ARRAY = (ValueError, EOFError, OverflowError, TypeError, SyntaxError, RecursionError, MemoryError, TokenError)
"""What NumPy raises for a head that is none, or that promises what no file holds."""


def require(paths: Iterable[Path], *, source: str) -> None:
    """ConfigError for the first of `paths` that is not there; `source`: where it comes from, and how large it is."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"path: no {path}\nit comes from {source}; set path to the folder that holds {path.name}")
        regular(path)


def regular(path: Path) -> Path:
    """`path` itself. ConfigError, which names it, unless it is a regular file that can be read."""
    try:
        open_regular(path).close()
    except OSError as error:
        raise ConfigError(f"path: cannot read {shown(path)}: {error.strerror or error}") from error
    return path


def read_array(path: Path, *, shape: tuple[int | None, ...]) -> np.ndarray:
    """uint8, mapped rather than read. `shape` has None where any size will do."""
    array = _load(path)
    fits = array.ndim == len(shape) and all(want in (None, size) for want, size in zip(shape, array.shape, strict=True))
    if array.dtype != np.uint8 or not fits:
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        raise ConfigError(f"path: {path} holds {array.dtype} {array.shape}, should be uint8 ({expected})")
    return array


def class_ids(path: Path, *, count: int, classes: tuple[str, ...]) -> np.ndarray:
    """(count,) places in `classes`."""
    stored = _load(path)
    if stored.shape != (count,) or not np.issubdtype(stored.dtype, np.integer):
        raise ConfigError(f"path: {path} holds {stored.dtype} {stored.shape}, should be {count} whole numbers")
    labels = np.array(stored)  # a copy: torch wants no labels that cannot be written to
    if count and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ConfigError(
            f"path: {path} holds labels {labels.min()} to {labels.max()}, should be 0 to {len(classes) - 1}"
        )
    return labels


def _load(path: Path) -> np.ndarray:
    try:
        # not np.load, which opens archives too, and unpickles on request
        return np.lib.format.open_memmap(regular(path), mode="r")
    except OSError as error:
        raise ConfigError(f"path: cannot read {shown(path)}: {error.strerror or error}") from error
    except _NO_ARRAY as error:
        raise ConfigError(f"path: {shown(path)} is cut short or no NumPy file; fetch it again") from error
