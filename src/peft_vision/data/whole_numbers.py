"""This module checks labels and other numbers that a file gives for each picture, and refuses numbers out of range."""

from pathlib import Path
from typing import Any

import numpy as np

from peft_vision.core.config import ConfigError


def whole_numbers(
    values: Any,
    path: Path,
    *,
    first: int,
    last: int,
    what: str = "labels",
    count: int | None = None,
    of: str = "",
    floats: bool = False,
    key: str = "data.root",
) -> np.ndarray:
    """Return `values` of the file `path` as int64 (n,), ConfigError unless all are whole and within `first` to `last`.
    `count`: the expected number of values, one for each image `of` another file; `floats`: accept 3.0 as whole, as
    MATLAB stores numbers."""
    numbers = np.asarray(values)
    whole = numbers.dtype.kind in "iu" or (floats and numbers.dtype.kind == "f" and (numbers == np.rint(numbers)).all())
    if numbers.ndim != 1 or not numbers.size or not whole or count not in (None, len(numbers)):
        name = "" if what == "labels" else f" as {what}"
        wanted = (
            ("" if count is None else f"{count} ") + "whole numbers" + (f", one for each image of {of}" if of else "")
        )
        raise ConfigError(f"{key}: {path} holds {numbers.dtype} {numbers.shape}{name}, should be {wanted}")
    if not first <= numbers.min() <= numbers.max() <= last:
        raise ConfigError(f"{key}: {path} holds {what} {numbers.min()} to {numbers.max()}, should be {first} to {last}")
    return numbers.astype(np.int64)
