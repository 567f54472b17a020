"""BREEDS groups classes of ImageNet into superclasses, each seen through some of its subclasses only (Santurkar et al.,
2021, arXiv:2008.04859).

A class is a superclass; half of its subclasses, the source, is trained on, the other half, the target, is the shift
(`ood/parts.py`). A run trains on train/ and tests on val/ of the source subclasses.
breeds.json holds the splits of github.com/MadryLab/robustness 1.2.1, `make_living17(info_dir, split="rand")` and so on,
which draw with a seed of their own from the hierarchy of github.com/MadryLab/BREEDS-Benchmarks; LP-FT uses the same.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.base import Data
from peft_vision.data.folders import read_folders, require_folders
from peft_vision.data.imagenet import SOURCE
from peft_vision.data.reading import located
from peft_vision.data.splits import LabelledSets

NAMES = ("living17", "nonliving26", "entity13", "entity30")


def superclasses(name: str) -> tuple[str, ...]:
    """Return the class names in the order of their labels."""
    return tuple(_table(name))


def subclass_labels(name: str, which: Literal["source", "target"]) -> dict[str, int]:
    """Return the label, the position in `superclasses`, of each source or target subclass by its WordNet id."""
    return {wnid: label for label, halves in enumerate(_table(name).values()) for wnid in halves[which]}


def _table(name: str) -> dict[str, dict[str, list[str]]]:
    return json.loads(Path(__file__).with_name("breeds.json").read_text(encoding="ascii"))[name]


@component
class Breeds(Data):
    """A BREEDS data set in ImageNet's folder, `path`, which may lack the classes that are not used."""

    path: Annotated[str, FILE]
    name: Literal[NAMES]

    def check(self) -> None:
        """Check only that the class folders exist."""
        labels = subclass_labels(self.name, "source")
        for split in ("train", "val"):
            require_folders(located(self.path) / split, labels, alone=False, key="data.path", source=SOURCE)

    def open(self) -> LabelledSets:
        """Return the source subclasses of train/ and, as the test part, of val/."""
        self.check()
        root, labels = located(self.path), subclass_labels(self.name, "source")
        return LabelledSets(
            name=self.name,
            train=read_folders(root, root / "train", labels, key="data.path"),
            val=None,
            test=read_folders(root, root / "val", labels, key="data.path"),
            classes=superclasses(self.name),
            remark="source subclasses, tested on the official validation images of them",
        )
