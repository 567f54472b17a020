"""Where torchvision's data sets differ: class, splits, files on disk, and where labels and pictures are.

Labels and pictures are read from the data set's own lists, so that nothing is decoded to learn a label.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision import datasets

from peft_vision.data.pictures import Arrays, Files, Pictures


@dataclass(frozen=True, kw_only=True)
class Entry:
    """`train`, `val`, `test` are arguments of `cls`, None where there is no such split. `contents` lie
    under the root once the data set is there, `archives` are what torchvision unpacks, `site` is where it
    fetches them."""

    cls: type
    train: Mapping[str, Any]
    val: Mapping[str, Any] | None
    test: Mapping[str, Any] | None
    pictures: Callable[[Any], Pictures]
    labels: str
    classes: Callable[[Any], list[str]]
    contents: tuple[str, ...]
    archives: tuple[str, ...]
    site: str


def _classes(dataset: Any) -> list[str]:
    return dataset.classes


def _height_width_channels(dataset: Any) -> Pictures:
    return Arrays(dataset.data)


def _channels_first(dataset: Any) -> Pictures:
    return Arrays(dataset.data.transpose(0, 2, 3, 1))


def _files(attribute: str) -> Callable[[Any], Pictures]:
    def files(dataset: Any) -> Pictures:
        root = Path(dataset.root)
        return Files(root, [str(Path(path).relative_to(root)) for path in getattr(dataset, attribute)])

    return files


def _eurosat(dataset: Any) -> Pictures:
    root = Path(dataset.root)
    return Files(root, [str(Path(path).relative_to(root)) for path, _ in dataset.samples])


def _caltech101(dataset: Any) -> Pictures:
    folder = "101_ObjectCategories"
    return Files(
        Path(dataset.root),
        [
            f"{folder}/{dataset.categories[label]}/image_{number:04d}.jpg"
            for label, number in zip(dataset.y, dataset.index, strict=True)
        ],
    )


_TRAIN_OR_NOT = {"train": {"train": True}, "val": None, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "val": None, "test": {"split": "test"}}
_TRAIN_VAL_TEST = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_UNDIVIDED: dict[str, Any] = {"train": {}, "val": None, "test": None}

TABLE = {
    "cifar10": Entry(
        cls=datasets.CIFAR10,
        **_TRAIN_OR_NOT,
        pictures=_height_width_channels,
        labels="targets",
        classes=_classes,
        contents=("cifar-10-batches-py",),
        archives=("cifar-10-python.tar.gz",),
        site="https://www.cs.toronto.edu",
    ),
    "cifar100": Entry(
        cls=datasets.CIFAR100,
        **_TRAIN_OR_NOT,
        pictures=_height_width_channels,
        labels="targets",
        classes=_classes,
        contents=("cifar-100-python",),
        archives=("cifar-100-python.tar.gz",),
        site="https://www.cs.toronto.edu",
    ),
    "flowers102": Entry(
        cls=datasets.Flowers102,
        **_TRAIN_VAL_TEST,
        pictures=_files("_image_files"),
        labels="_labels",
        classes=_classes,
        contents=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        archives=("flowers-102/102flowers.tgz",),
        site="https://www.robots.ox.ac.uk",
    ),
    "pets": Entry(
        cls=datasets.OxfordIIITPet,
        train={"split": "trainval"},
        val=None,
        test={"split": "test"},
        pictures=_files("_images"),
        labels="_labels",
        classes=_classes,
        contents=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        archives=("oxford-iiit-pet/images.tar.gz", "oxford-iiit-pet/annotations.tar.gz"),
        site="https://www.robots.ox.ac.uk",
    ),
    "dtd": Entry(
        cls=datasets.DTD,  # partition 1 of its ten, as everybody reports
        **_TRAIN_VAL_TEST,
        pictures=_files("_image_files"),
        labels="_labels",
        classes=_classes,
        contents=("dtd/dtd",),
        archives=("dtd/dtd-r1.0.1.tar.gz",),
        site="https://www.robots.ox.ac.uk",
    ),
    "food101": Entry(
        cls=datasets.Food101,
        **_TRAIN_TEST,
        pictures=_files("_image_files"),
        labels="_labels",
        classes=_classes,
        contents=("food-101/meta", "food-101/images"),
        archives=("food-101.tar.gz",),
        site="http://data.vision.ee.ethz.ch",
    ),
    "svhn": Entry(
        cls=datasets.SVHN,
        **_TRAIN_TEST,
        pictures=_channels_first,
        labels="labels",
        classes=lambda dataset: [str(digit) for digit in range(10)],
        contents=("train_32x32.mat", "test_32x32.mat"),
        archives=("train_32x32.mat", "test_32x32.mat"),
        site="http://ufldl.stanford.edu",
    ),
    "eurosat": Entry(
        cls=datasets.EuroSAT,
        **_UNDIVIDED,
        pictures=_eurosat,
        labels="targets",
        classes=_classes,
        contents=("eurosat/2750",),
        archives=("eurosat/EuroSAT.zip",),
        site="https://huggingface.co",
    ),
    "caltech101": Entry(
        cls=datasets.Caltech101,  # which leaves the background class out
        **_UNDIVIDED,
        pictures=_caltech101,
        labels="y",
        classes=lambda dataset: dataset.categories,
        contents=("caltech101/101_ObjectCategories",),
        archives=("caltech101/caltech-101.zip",),
        site="https://data.caltech.edu",
    ),
    "stl10": Entry(
        cls=datasets.STL10,
        **_TRAIN_TEST,  # the unlabelled images are not read
        pictures=_channels_first,
        labels="labels",
        classes=_classes,
        contents=("stl10_binary",),
        archives=("stl10_binary.tar.gz",),
        site="http://ai.stanford.edu",
    ),
}
