"""Sets that are published as NumPy files: read without unpickling, and refused unless whole."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from peft_vision.config import ConfigError


def require(paths: Iterable[Path], *, source: str) -> None:
    """ConfigError for the first of `paths` that is not there; `source`: where it comes from, and how large it is."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"path: no {path}\nit comes from {source}; set path to the folder that holds {path.name}")


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
    labels = np.array(_load(path))  # a copy: torch wants no labels that cannot be written to
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(f"path: {path} holds {labels.dtype} {labels.shape}, should be {count} whole numbers")
    if count and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ConfigError(
            f"path: {path} holds labels {labels.min()} to {labels.max()}, should be 0 to {len(classes) - 1}"
        )
    return labels


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # whose text may advise to unpickle it
        raise ConfigError(f"path: {path} is cut short or no NumPy file; fetch it again") from error
    except OSError as error:
        raise ConfigError(f"path: cannot read {path}: {error.strerror or error}") from error
