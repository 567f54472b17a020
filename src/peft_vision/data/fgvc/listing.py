"""This module holds what a copy of a data set states about its pictures, before any picture is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Label = int | str


@dataclass(frozen=True)
class Listing:
    """The contents of a copy. `splits`: for "train", "test" and perhaps "val", the label of each picture by its path
    below the copy's folder. Labels are all integers or all strings, in any range. `names`: the class names by label.
    `files`: the files that state this, for checksums."""

    splits: Mapping[str, Mapping[str, Label]]
    names: Mapping[Label, str]
    files: tuple[Path, ...]
