"""CIFAR-10.1: new test images for CIFAR-10, collected as the first were (Recht et al., 2018, arXiv:1806.00451)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.pictures import Arrays, labelled
from peft_vision.ood.arrays import class_ids, read_array, require
from peft_vision.ood.base import OOD, Shift
from peft_vision.ood.cifar_c import CIFAR10


@component
class CIFAR10_1(OOD):
    """The set CIFAR-10.1. `path`: the folder that holds `cifar10.1_v6_data.npy` and its labels; v4 has 2,021 images, v6
    2,000."""

    path: Annotated[str, FILE]
    version: Literal["v4", "v6"]

    def check(self) -> None:
        require(
            self._files(),
            source="https://github.com/modestyachts/CIFAR-10.1, folder datasets (6 MB a version)",
        )

    def open(self) -> Mapping[str, Shift]:
        data, labels = self._files()
        images = read_array(data, shape=(None, 32, 32, 3))
        return {
            "": Shift(labelled(Arrays(images), class_ids(labels, of=data, count=len(images), classes=CIFAR10)), CIFAR10)
        }

    def _files(self) -> tuple[Path, Path]:
        folder = Path(self.path).expanduser().absolute()
        return folder / f"cifar10.1_{self.version}_data.npy", folder / f"cifar10.1_{self.version}_labels.npy"
