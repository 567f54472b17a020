"""This module lists what differs between torchvision's data sets: class, reader, splits, files and checksums."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchvision import datasets

from peft_vision.data import torchvision_arrays as arrays
from peft_vision.data import torchvision_lists as lists


@dataclass(frozen=True, kw_only=True)
class TorchvisionEntry:
    """A data set of torchvision.

    `cls` is torchvision's class, which downloads; `read` reads the files on disk. `train`, `val`, `test` are arguments
    of both, None if there is no such split. `contents` lie under the root once the data set is complete, `archives` are
    the files torchvision unpacks, `site` is where it downloads them. `sums`: the md5 of files that are checked before
    they are read.
    """

    cls: type
    read: Callable[..., arrays.Part]
    train: Mapping[str, Any]
    val: Mapping[str, Any] | None
    test: Mapping[str, Any] | None
    contents: tuple[str, ...]
    archives: tuple[str, ...]
    site: str
    sums: Mapping[str, str]


def _cifar_sums(cls: type) -> dict[str, str]:
    meta = (cls.meta["filename"], cls.meta["md5"])
    return {f"{cls.base_folder}/{name}": md5 for name, md5 in (*cls.train_list, *cls.test_list, meta)}


def _flowers_sums() -> dict[str, str]:
    files = (datasets.Flowers102._file_dict[name] for name in ("label", "setid"))
    return {f"flowers-102/{name}": md5 for name, md5 in files}


def _svhn_sums() -> dict[str, str]:
    return {name: md5 for _, name, md5 in (datasets.SVHN.split_list[split] for split in ("train", "test"))}


def _stl10_sums() -> dict[str, str]:
    """Return the MD5 sums of the files of STL-10 that are read, by path."""
    files = (*datasets.STL10.train_list[:2], *datasets.STL10.test_list)
    return {f"stl10_binary/{name}": md5 for name, md5 in files}


_TRAIN_OR_NOT = {"train": {"train": True}, "val": None, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "val": None, "test": {"split": "test"}}
_TRAIN_VAL_TEST = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_UNDIVIDED: dict[str, Any] = {"train": {}, "val": None, "test": None}

TABLE = {
    "cifar10": TorchvisionEntry(
        cls=datasets.CIFAR10,
        read=arrays.cifar10,
        **_TRAIN_OR_NOT,
        contents=("cifar-10-batches-py",),
        archives=("cifar-10-python.tar.gz",),
        site="https://www.cs.toronto.edu",
        sums=_cifar_sums(datasets.CIFAR10),
    ),
    "cifar100": TorchvisionEntry(
        cls=datasets.CIFAR100,
        read=arrays.cifar100,
        **_TRAIN_OR_NOT,
        contents=("cifar-100-python",),
        archives=("cifar-100-python.tar.gz",),
        site="https://www.cs.toronto.edu",
        sums=_cifar_sums(datasets.CIFAR100),
    ),
    "flowers102": TorchvisionEntry(
        cls=datasets.Flowers102,
        read=lists.flowers102,
        **_TRAIN_VAL_TEST,
        contents=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        archives=("flowers-102/102flowers.tgz",),
        site="https://www.robots.ox.ac.uk",
        sums=_flowers_sums(),
    ),
    "pets": TorchvisionEntry(
        cls=datasets.OxfordIIITPet,
        read=lists.pets,
        train={"split": "trainval"},
        val=None,
        test={"split": "test"},
        contents=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        archives=("oxford-iiit-pet/images.tar.gz", "oxford-iiit-pet/annotations.tar.gz"),
        site="https://www.robots.ox.ac.uk",
        sums={},
    ),
    "dtd": TorchvisionEntry(
        cls=datasets.DTD,
        read=lists.dtd,
        **_TRAIN_VAL_TEST,
        contents=("dtd/dtd",),
        archives=("dtd/dtd-r1.0.1.tar.gz",),
        site="https://www.robots.ox.ac.uk",
        sums={},
    ),
    "food101": TorchvisionEntry(
        cls=datasets.Food101,
        read=lists.food101,
        **_TRAIN_TEST,
        contents=("food-101/meta", "food-101/images"),
        archives=("food-101.tar.gz",),
        site="http://data.vision.ee.ethz.ch",
        sums={},
    ),
    "svhn": TorchvisionEntry(
        cls=datasets.SVHN,
        read=arrays.svhn,
        **_TRAIN_TEST,
        contents=("train_32x32.mat", "test_32x32.mat"),
        archives=("train_32x32.mat", "test_32x32.mat"),
        site="http://ufldl.stanford.edu",
        sums=_svhn_sums(),
    ),
    "eurosat": TorchvisionEntry(
        cls=datasets.EuroSAT,
        read=lists.eurosat,
        **_UNDIVIDED,
        contents=("eurosat/2750",),
        archives=("eurosat/EuroSAT.zip",),
        site="https://huggingface.co",
        sums={},
    ),
    "caltech101": TorchvisionEntry(
        cls=datasets.Caltech101,
        read=lists.caltech101,
        **_UNDIVIDED,
        contents=("caltech101/101_ObjectCategories",),
        archives=("caltech101/caltech-101.zip",),
        site="https://data.caltech.edu",
        sums={},
    ),
    "stl10": TorchvisionEntry(
        cls=datasets.STL10,
        read=arrays.stl10,
        **_TRAIN_TEST,
        contents=("stl10_binary",),
        archives=("stl10_binary.tar.gz",),
        site="http://ai.stanford.edu",
        sums=_stl10_sums(),
    ),
}
