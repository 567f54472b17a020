"""Holds what a data set hands to a run: train, validation and test images, and a fingerprint that identifies them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peft_vision.data.images import Images
from peft_vision.data.pictures import Labelled
from peft_vision.data.twins import Twins


@dataclass(frozen=True)
class LabelledSets:
    """Pictures and labels of each split before any is decoded. `val` is the data set's own validation
    split, if it has one; `remark` is what the user should know of the splits; with `gaps`, classes may lack
    training images. `group`: of data sets whose results are averaged together; `provenance`: where all this is from, as
    short texts by what they tell; `files`: those that say what is what, whose checksums are part of it."""

    name: str
    train: Labelled
    val: Labelled | None
    test: Labelled
    classes: tuple[str, ...]
    remark: str
    gaps: bool = False
    group: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Splits:
    """`val` is None when no validation part was asked for, `test` while settings are tuned; `fingerprint` is sha256 of
    pictures, labels and division; `skipped` counts corrupt pictures left out; `source` is one line for people. `group`
    and `provenance` as of LabelledSets; `twins` as `find_twins` gives them."""

    train: Images
    val: Images | None
    test: Images | None
    classes: tuple[str, ...]
    fingerprint: str
    skipped: int
    source: str
    group: str
    provenance: Mapping[str, str]
    twins: Mapping[str, Twins] | None

    @property
    def twin_counts(self) -> dict[str, int] | None:
        """The numbers of `twins`, as a result keeps them."""
        return None if self.twins is None else {pair: its.count for pair, its in self.twins.items()}

    def parts(self) -> dict[str, Images]:
        """Those there are, by name: train, val, test."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: images for name, images in named.items() if images is not None}


def fingerprint(parts: Mapping[str, Labelled], classes: tuple[str, ...]) -> str:
    """sha256 hex; the same wherever the data lie and however they are loaded."""
    lines = [f"{name} {part.digest()}" for name, part in parts.items()]
    return hashlib.sha256("\n".join([*lines, *classes]).encode()).hexdigest()
