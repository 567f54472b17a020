"""CIFAR-10.1: new test images for CIFAR-10, collected as the first were (Recht et al., 2018, arXiv:1806.00451)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.numpy_files import load_bytes
from peft_vision.data.pictures import Arrays, labelled
from peft_vision.data.reading import located
from peft_vision.ood.base import OOD, Shift, require_files
from peft_vision.ood.cifar_c import CIFAR10, class_ids


@component
class CIFAR10_1(OOD):
    """The set CIFAR-10.1. `path`: the folder that holds `cifar10.1_v6_data.npy` and its labels; v4 has 2,021 images, v6
    2,000."""

    path: Annotated[str, FILE]
    version: Literal["v4", "v6"]

    def check(self) -> None:
        source = "CIFAR-10.1 is at https://github.com/modestyachts/CIFAR-10.1, folder datasets (6 MB a version)"
        require_files(self._files(), what="CIFAR-10.1", source=source)

    def open(self) -> Mapping[str, Shift]:
        data, labels = self._files()
        images = load_bytes(data, shape=(None, 32, 32, 3), key="path")
        ids = class_ids(labels, of=data, count=len(images), classes=CIFAR10)
        return {"": Shift(labelled(Arrays(images), ids), CIFAR10)}

    def _files(self) -> tuple[Path, Path]:
        folder = located(self.path)
        return folder / f"cifar10.1_{self.version}_data.npy", folder / f"cifar10.1_{self.version}_labels.npy"
