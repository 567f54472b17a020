"""This module has the shifts of CIFAR: its test images, corrupted (CIFAR-10-C and CIFAR-100-C: Hendrycks & Dietterich,
2019, arXiv:1903.12261), new test images collected as the first were (CIFAR-10.1: Recht et al., 2018, arXiv:1806.00451),
and photographs of ImageNet in nine of CIFAR-10's classes (STL-10: Coates et al., 2011).

path/fog.npy          CIFAR-C: uint8 (5n, 32, 32, 3), n images at severity 1, the same at severity 2, and so on
path/labels.npy       (5n,)
path/test_X.bin       STL-10: uint8 (n, 3, 96, 96), each channel column by column
path/test_y.bin       uint8 (n,), from 1
path/class_names.txt

The files of CIFAR hold labels without names; `CIFAR10` and `CIFAR100` are the classes in label order. STL-10 is read
here rather than by torchvision, which also requires 2.6 GB of unlabelled images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.data.arrays import Arrays
from peft_vision.data.numpy_files import load_array, load_bytes
from peft_vision.data.pictures import labelled
from peft_vision.data.reading import located, whole_numbers
from peft_vision.data.torchvision_readers import stl10_classes, stl10_images, stl10_labels
from peft_vision.ood.base import OOD, Shift, require_files

_NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
_NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR10 = tuple(_NAMES_10.split())
CIFAR100 = tuple(_NAMES_100.split())


CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
SEVERITIES = 5
_CLASSES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_SOURCES = {
    "cifar10": ("CIFAR-10-C", "https://zenodo.org/records/2535967, CIFAR-10-C.tar (2.9 GB)"),
    "cifar100": ("CIFAR-100-C", "https://zenodo.org/records/3555552, CIFAR-100-C.tar (2.9 GB)"),
}


@component
class CIFARC(OOD):
    """A set that has a shift for each corruption and severity, such as fog-3. `path`: the folder of the arrays."""

    path: Annotated[str, FILE]
    classes: Literal["cifar10", "cifar100"]
    corruptions: Annotated[tuple[Literal[CORRUPTIONS], ...], Field(min_length=1)]
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=SEVERITIES)], ...], Field(min_length=1)]

    def check(self) -> None:
        name, source = _SOURCES[self.classes]
        files = [self._file(name) for name in (*self.corruptions, "labels")]
        require_files(files, what=name, source=f"{name} is at {source}")

    def open(self) -> Mapping[str, Shift]:
        classes, first = _CLASSES[self.classes], self._file(self.corruptions[0])
        count = len(load_bytes(first, shape=(None, 32, 32, 3), key="path"))
        if count % SEVERITIES:
            raise ConfigError(
                f"path: {first} holds {count} images, should be as many of each severity, 1 to {SEVERITIES}"
            )
        labels = class_ids(self._file("labels"), of=first, count=count, classes=classes)
        shifts = {}
        for corruption in self.corruptions:
            images = load_bytes(self._file(corruption), shape=(count, 32, 32, 3), key="path")
            for severity in self.severities:
                rows = slice((severity - 1) * count // SEVERITIES, severity * count // SEVERITIES)
                shifts[f"{corruption}-{severity}"] = Shift(labelled(Arrays(images[rows]), labels[rows]), classes)
        return shifts

    def _file(self, name: str) -> Path:
        return located(self.path) / f"{name}.npy"


def class_ids(path: Path, *, of: Path, count: int, classes: tuple[str, ...]) -> np.ndarray:
    """Return the labels of the images in the file `of`: (count,) indices into `classes`. ConfigError for others."""
    labels, last = load_array(path, key="path"), len(classes) - 1
    return whole_numbers(labels, path, within=(0, last), per=(count, of.name), key="path")


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


CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@component
class STL10(OOD):
    """A set of STL-10's test images. `path`: the folder that holds test_X.bin."""

    path: Annotated[str, FILE]

    def check(self) -> None:
        source = "STL-10 is at https://cs.stanford.edu/~acoates/stl10, stl10_binary.tar.gz (2.6 GB)"
        require_files(self._files(), what="STL-10", source=source)

    def open(self) -> Mapping[str, Shift]:
        data, labels, names = self._files()
        images, found = stl10_images(data, key="path"), stl10_classes(names, key="path")
        if found != CLASSES:
            raise ConfigError(f"path: {names} holds other lines than {', '.join(CLASSES)}; fetch it again")
        ids = stl10_labels(labels, of=data, count=len(images), key="path")
        return {"": Shift(labelled(Arrays(images), ids), CLASSES)}

    def _files(self) -> tuple[Path, Path, Path]:
        folder = located(self.path)
        return folder / "test_X.bin", folder / "test_y.bin", folder / "class_names.txt"
