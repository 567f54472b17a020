"""ImageNet's 1,000 classes, identified by their WordNet ids, or wnids (Russakovsky et al., 2015, arXiv:1409.0575).

path/train/n01440764/*.JPEG  path/val/n01440764/*.JPEG

Labels of its test images are not public, so runs are tested on val/, as usual. The lists of wnids are timm's:

all  the 1,000 of ILSVRC2012, in the order of their labels, which is that of the wnids
r    the 200 of them in ImageNet-R (Hendrycks et al., 2021, arXiv:2006.16241)
a    the 200 of them in ImageNet-A (Hendrycks et al., 2021, arXiv:1907.07174)

BREEDS groups classes of ImageNet into superclasses, each seen through some of its subclasses only (Santurkar et al.,
2021, arXiv:2008.04859).

A class is a superclass; half of its subclasses, the source, is trained on, the other half, the target, is the shift
(`ood/parts.py`). A run trains on train/ and tests on val/ of the source subclasses.
breeds.json holds the splits of github.com/MadryLab/robustness 1.2.1, `make_living17(info_dir, split="rand")` and so on,
which draw with a seed of their own from the hierarchy of github.com/MadryLab/BREEDS-Benchmarks; LP-FT uses the same.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.base import Data
from peft_vision.data.folders import read_folders, require_folders
from peft_vision.data.reading import located
from peft_vision.data.splits import LabelledSets

_LISTS = {"all": "imagenet_synsets.txt", "r": "imagenet_r_synsets.txt", "a": "imagenet_a_synsets.txt"}
SOURCE = (
    "ImageNet (ILSVRC2012, 138 + 6.3 GB packed) is at image-net.org; path is the folder that holds "
    "train/n01440764/*.JPEG and val/n01440764/*.JPEG, val sorted into classes as train is"
)


def synsets(which: Literal["all", "r", "a"]) -> tuple[str, ...]:
    """Return the sorted wnids of one of the three sets."""
    return tuple((files("timm.data") / "_info" / _LISTS[which]).read_text(encoding="ascii").split())


@component
class ImageNet(Data):
    """ImageNet in the folder `path`, which holds train/ and val/."""

    path: Annotated[str, FILE]

    def check(self) -> None:
        """Check only that the folders exist, because listing 1.3 million pictures takes a while."""
        for split in ("train", "val"):
            require_folders(located(self.path) / split, synsets("all"), alone=True, key="data.path", source=SOURCE)

    def open(self) -> LabelledSets:
        """Return train/ and, as the test part, val/."""
        self.check()
        root, classes = located(self.path), synsets("all")
        labels = {wnid: label for label, wnid in enumerate(classes)}
        return LabelledSets(
            name="imagenet",
            train=read_folders(root, root / "train", labels, key="data.path"),
            val=None,
            test=read_folders(root, root / "val", labels, key="data.path"),
            classes=classes,
            remark="tested on the official validation images",
        )


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
