"""BREEDS: subclasses that a run was not trained on, of its superclasses (Santurkar et al., 2021, arXiv:2008.04859).

The images are those of the target subclasses in ImageNet's val/; `data/breeds.py` has the source subclasses.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.breeds import NAMES, subclass_labels, superclasses
from peft_vision.data.folders import read_folders, require_folders
from peft_vision.data.imagenet import SOURCE
from peft_vision.data.reading import located
from peft_vision.ood.base import OOD, Shift


@component
class ShiftedBreeds(OOD):
    """A set of the target subclasses, labelled by superclass. `path`: ImageNet's folder, the one that holds val/."""

    path: Annotated[str, FILE]
    name: Literal[NAMES]

    def check(self) -> None:
        require_folders(located(self.path) / "val", self._labels(), alone=False, key="path", source=SOURCE)

    def open(self) -> Mapping[str, Shift]:
        root = located(self.path)
        target = read_folders(root, root / "val", self._labels(), key="path")
        return {"": Shift(target, superclasses(self.name))}

    def _labels(self) -> dict[str, int]:
        return subclass_labels(self.name, "target")
