"""BREEDS groups classes of ImageNet into superclasses, each seen through some of its subclasses only (Santurkar et al.,
2021, arXiv:2008.04859).

A run trains on train/ and tests on val/ of the source subclasses; `ood/breeds.py` has the target subclasses.
"""

from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.base import Data
from peft_vision.data.breeds_table import NAMES, subclass_labels, superclasses
from peft_vision.data.imagenet import SOURCE
from peft_vision.data.imagenet_folder import read_folders, require_folders
from peft_vision.data.splits import LabelledSets


@component
class Breeds(Data):
    """A BREEDS data set in ImageNet's folder, `path`, which may lack the classes that are not used."""

    path: Annotated[str, FILE]
    name: Literal[NAMES]

    def check(self) -> None:
        """Check only that the class folders exist."""
        labels = subclass_labels(self.name, "source")
        for split in ("train", "val"):
            require_folders(self._folder() / split, labels, alone=False, key="data.path", source=SOURCE)

    def open(self) -> LabelledSets:
        """Return the source subclasses of train/ and, as the test part, of val/."""
        self.check()
        root, labels = self._folder(), subclass_labels(self.name, "source")
        return LabelledSets(
            name=self.name,
            train=read_folders(root, root / "train", labels, key="data.path"),
            val=None,
            test=read_folders(root, root / "val", labels, key="data.path"),
            classes=superclasses(self.name),
            remark="source subclasses, tested on the official validation images of them",
        )

    def _folder(self) -> Path:
        return Path(self.path).expanduser().absolute()
