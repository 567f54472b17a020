"""This module reads labels and class names of pictures from MATLAB tables, which three of the data sets use."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.data.matlab import texts
from peft_vision.data.reading import refuse_repeated
from peft_vision.data.whole_numbers import whole_numbers

_MOST = 2**31 - 1


def numbers(file: Path, values: Any, *, what: str) -> np.ndarray:
    """Return `values` as int64 (n,). ConfigError unless they are whole numbers from 1."""
    if values.dtype.hasobject and values.ndim == 1:  # a field of a struct array
        values = np.array([np.asarray(value).item() if np.size(value) == 1 else None for value in values])
    return whole_numbers(values, file, what=what, first=1, last=_MOST, floats=True)


def labelled_paths(file: Path, paths: np.ndarray, labels: np.ndarray, *, folder: str) -> dict[str, int]:
    """Return the label of each path, with `folder` prefixed. ConfigError if their numbers differ or a path is
    repeated."""
    names, classes = texts(file, paths, what="names"), numbers(file, labels, what="labels").tolist()
    if len(names) != len(classes):
        raise ConfigError(f"data.root: {file} has {len(names)} names and {len(classes)} labels; fetch it again")
    refuse_repeated(names, file)
    return {f"{folder}/{name}": label for name, label in zip(names, classes, strict=True)}


def named(file: Path, labels: Iterable[int], names: list[str], *, of: str) -> dict[int, str]:
    """Return the name of each label in `file`; `names` belong to the labels 1, 2 and so on, and come from `of`."""
    found = sorted(set(labels))
    if strange := [label for label in found if not 1 <= label <= len(names)]:
        raise ConfigError(
            f"data.root: {file} has the label {strange[0]}, should be 1 to {len(names)}, the names of {of}; "
            "fetch it again"
        )
    return {label: names[label - 1] for label in found}
