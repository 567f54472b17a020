"""Tables in MATLAB's file format, as three of the data sets are published with."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from peft_vision.config import ConfigError

_UNREADABLE = (OSError, ValueError, TypeError, EOFError, NotImplementedError, MatReadError)
"""What scipy raises for a file that is torn, of another kind, or of MATLAB 7.3."""


def read_mat(file: Path, *variables: str) -> list[np.ndarray]:
    """These variables of `file`, each (n,); a struct array has named fields. ConfigError where they cannot be read."""
    try:
        content = loadmat(file, squeeze_me=True, variable_names=variables)
    except _UNREADABLE as error:
        raise ConfigError(f"data.root: cannot read {file} ({type(error).__name__}: {error}); fetch it again") from error
    if missing := [name for name in variables if name not in content]:
        raise ConfigError(f"data.root: {file} has no variable {missing[0]!r}; it is not the published file")
    return [np.atleast_1d(content[name]) for name in variables]


def labelled_paths(file: Path, paths: np.ndarray, labels: np.ndarray, *, folder: str) -> dict[str, int]:
    """The label of each path, below `folder`. ConfigError where they do not pair."""
    if len(paths) != len(labels):
        raise ConfigError(f"data.root: {file} has {len(paths)} names and {len(labels)} labels; fetch it again")
    return {f"{folder}/{path}": int(label) for path, label in zip(paths, labels, strict=True)}


def named(file: Path, labels: Iterable[int], names: list[str]) -> dict[int, str]:
    """The name of each label that occurs; `names` are of the labels 1, 2 and so on."""
    found = sorted(set(labels))
    if strange := [label for label in found if not 1 <= label <= len(names)]:
        raise ConfigError(f"data.root: {file} has the label {strange[0]}, should be 1 to {len(names)}; fetch it again")
    return {label: names[label - 1] for label in found}
