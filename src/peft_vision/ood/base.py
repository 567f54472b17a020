"""This module defines out-of-distribution sets: pictures of other origin, of classes that a run was trained on.

A set is one shift or several (domains, corruptions, regions). Its classes are matched to the run's by name, so that no
index of one list is ever taken for an index of the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft_vision.core.config import component
from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import require, require_readable


@dataclass(frozen=True)
class Shift:
    """A shift: pictures whose labels are indices into `classes`, the set's own class names."""

    labelled: Labelled
    classes: tuple[str, ...]


@component
class OOD(ABC):
    """A set of out-of-distribution images. `rename`: maps the set's name of a class to the run's, where they differ.
    `missing`: classes of the run that the set lacks; allow: they can be predicted like all others, mask: they cannot.
    `extra`: classes of the set that the run does not know; drop: their pictures are left out."""

    rename: dict[str, str]
    missing: Literal["allow", "mask", "error"]
    extra: Literal["drop", "error"]

    @abstractmethod
    def check(self) -> None:
        """Raise ConfigError for what can be refused at little cost, above all a set that is not there; download
        nothing."""

    @abstractmethod
    def open(self) -> Mapping[str, Shift]:
        """Return the shifts by name, without decoding anything; a single shift may have the name "". ConfigError if the
        files are not as they were published."""


def require_files(paths: Sequence[Path], *, what: str, source: str) -> None:
    """Raise ConfigError unless `paths`, all in one folder, are files that can be read. `what`: the set; `source`: a
    sentence that says where it can be fetched."""
    names = [path.name for path in paths]
    require(paths[0].parent, names, what=f"parts of {what}", source=source, key="path")
    require_readable(paths, key="path")
