"""This module reads new pictures of ImageNet's classes: ImageNet-V2, -R, -A and -Sketch, in folders of their classes.

number  0/ to 999/, the labels of ImageNet (V2); torchvision would sort them as text and so mix up the classes
wnid    n01440764/ and so on (R, A, Sketch)
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from peft_vision.core.config import FILE, NOT_HASHED, component
from peft_vision.data.folders import read_folders, require_folders
from peft_vision.data.imagenet import synsets
from peft_vision.data.reading import located
from peft_vision.ood.base import OOD, Shift


@component
class ImageNetLike(OOD):
    """A set of new pictures of ImageNet's classes. `synsets`: the set's classes, all 1,000 or those of ImageNet-R or
    -A; `source`: where to get the set, for a user who lacks it."""

    path: Annotated[str, FILE]
    folders: Literal["wnid", "number"]
    synsets: Literal["all", "r", "a"]
    source: Annotated[str, NOT_HASHED]

    def check(self) -> None:
        require_folders(located(self.path), self._labels(), alone=True, key="path", source=self.source)

    def open(self) -> Mapping[str, Shift]:
        folder = located(self.path)
        return {"": Shift(read_folders(folder, folder, self._labels(), key="path"), synsets(self.synsets))}

    def _labels(self) -> dict[str, int]:
        """Return the labels by the names of the folders."""
        wnids = synsets(self.synsets)
        if self.folders == "wnid":
            return {wnid: label for label, wnid in enumerate(wnids)}
        numbers = {wnid: number for number, wnid in enumerate(synsets("all"))}
        return {str(numbers[wnid]): label for label, wnid in enumerate(wnids)}
