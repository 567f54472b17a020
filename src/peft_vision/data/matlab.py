"""This module reads tables in MATLAB's file format, which some data sets are published with."""

from pathlib import Path

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.data.matlab_elements import read_matrices
from peft_vision.data.reading import reading

_LARGEST = 2**26  # bytes of one variable


def read_mat(
    file: Path,
    *variables: str,
    squeeze: bool = True,
    largest: int = _LARGEST,
    key: str = "data.root",
    remedy: str = "fetch it again",
) -> list[np.ndarray]:
    """Return the named variables of `file`; a struct array has named fields. `squeeze` drops axes of length one but
    leaves at least (n,). ConfigError if a variable cannot be read or is missing."""
    with reading(file, f"a MATLAB file of {', '.join(variables)}", key=key, remedy=remedy):
        content = read_matrices(file, variables, largest=largest, squeeze=squeeze)
    if missing := [name for name in variables if name not in content]:
        raise ConfigError(f"{key}: {file} has no variable {missing[0]!r}; it is not the published file")
    return [np.atleast_1d(content[name]) for name in variables]


def texts(file: Path, values: np.ndarray, *, what: str) -> list[str]:
    """Return `values` of the file as a list. ConfigError unless they are a non-empty list of texts."""
    if values.ndim != 1 or not values.size or not all(isinstance(value, str) for value in values.tolist()):
        raise ConfigError(f"data.root: {file} holds {values.dtype} {values.shape} as {what}, should be a list of texts")
    return values.tolist()
