"""This module holds what a data set provides to a run: train, validation and test images, their numbers, and a
fingerprint.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peft_vision.data.images import Images
from peft_vision.data.pictures import LabelKind, Labelled
from peft_vision.data.twins import Twins


@dataclass(frozen=True)
class Extent:
    """The number of images of each split, and the number of classes."""

    images: Mapping[str, int]
    classes: int

    def tested_on(self, count: int | None) -> "Extent":
        """Return the extent where at most `count` test images are scored; None: all."""
        return self if count is None else Extent({**self.images, "test": min(count, self.images["test"])}, self.classes)

    def at(self, stage: str) -> "Extent":
        """Return the extent that `data.stage` reads, of an extent with train, val and test."""
        train, val, test = (self.images[split] for split in ("train", "val", "test"))
        images = {
            "all": {"train": train, "val": val, "test": test},
            "tune": {"train": train, "val": val},
            "final": {"train": train + val, "test": test},
            "peek": {"train": train + val, "val": test, "test": test},
        }
        return Extent(images[stage], self.classes)


@dataclass(frozen=True)
class LabelledSets:
    """The pictures and labels of each split before any is decoded.

    `val`: the data set's official validation split, if it has one. `test`: None if its files name no test split, and
    `test_fraction` of the training pictures is drawn. `remark`: what the user should know about the
    splits. `gaps`: classes may lack training images. `group`: the group of data sets whose results are averaged with
    this one's. `provenance`: where the data are from, as short texts by topic. `files`: the files that define splits
    and labels, whose checksums belong to the provenance. If the labels are numbers, `classes` holds the names of their
    targets.
    """

    name: str
    train: Labelled
    val: Labelled | None
    test: Labelled | None
    classes: tuple[str, ...]
    remark: str
    test_fraction: float = 0.2
    gaps: bool = False
    group: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def labels_are(self) -> LabelKind:
        """Return the kind of the labels, which pictures.py lists."""
        return self.train.labels_are


@dataclass(frozen=True)
class Splits:
    """The decoded splits of a data set for one run.

    `pictures`: those of each split before they were decoded, in the order of its images.
    `val` is None if there is no validation part, `test` is None while settings are tuned. `fingerprint`: sha256 of
    pictures, labels and division. `skipped`: the number of corrupt pictures left out. `source`: one line for people.
    `classes`, `group`, `provenance` and `labels_are` are as in LabelledSets; `twins` are as `find_twins` returns them.
    """

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
    pictures: Mapping[str, Labelled]
    labels_are: LabelKind = "classes"

    @property
    def twin_counts(self) -> dict[str, int] | None:
        """Return the number of twins of each pair of splits, as stored in a result."""
        return None if self.twins is None else {pair: twins.count for pair, twins in self.twins.items()}

    def parts(self) -> dict[str, Images]:
        """Return the splits that exist, by name: train, val, test."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: images for name, images in named.items() if images is not None}


def fingerprint(parts: Mapping[str, Labelled], classes: tuple[str, ...]) -> str:
    """Return the sha256 (hex) of pictures, labels, division and classes: the same wherever the data lie and however
    they are loaded."""
    lines = [f"{name} {part.digest()}" for name, part in parts.items()]
    return hashlib.sha256("\n".join([*lines, *classes]).encode()).hexdigest()
