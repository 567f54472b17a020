"""This module lists what differs between torchvision's data sets: class, reader, splits, files and checksums."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchvision import datasets

from peft_vision.data import torchvision_readers as readers
from peft_vision.data.torchvision_readers import Part


@dataclass(frozen=True)
class TorchvisionEntry:
    """A data set of torchvision, in the order of these fields.

    `cls` is torchvision's class, which downloads; `read` reads the files on disk. `train`, `val`, `test` are arguments
    of both, None if there is no such split. `contents` lie under the root once the data set is complete, `archives` are
    the files torchvision unpacks, `site` is where it downloads them. `sums`: the md5 of files that are checked before
    they are read. `remark`: what the user should know about the splits. `masked`: whether a mask belongs to each
    picture.
    """

    cls: type
    read: Callable[..., Part]
    train: Mapping[str, Any]
    val: Mapping[str, Any] | None
    test: Mapping[str, Any] | None
    contents: tuple[str, ...]
    archives: tuple[str, ...]
    site: str
    sums: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    masked: bool = False


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


# arguments of train, val and test
_TRAIN_OR_NOT = ({"train": True}, None, {"train": False})
_TRAIN_TEST = ({"split": "train"}, None, {"split": "test"})
_TRAIN_VAL_TEST = ({"split": "train"}, {"split": "val"}, {"split": "test"})
_TRAINVAL_TEST = ({"split": "trainval"}, None, {"split": "test"})
_OF_TRIMAPS = {"target_types": "segmentation"}
_UNDIVIDED: tuple[dict[str, Any], None, None] = ({}, None, None)

TABLE = {
    "cifar10": TorchvisionEntry(
        *(datasets.CIFAR10, readers.cifar10, *_TRAIN_OR_NOT),
        *(("cifar-10-batches-py",), ("cifar-10-python.tar.gz",), "https://www.cs.toronto.edu"),
        _cifar_sums(datasets.CIFAR10),
    ),
    "cifar100": TorchvisionEntry(
        *(datasets.CIFAR100, readers.cifar100, *_TRAIN_OR_NOT),
        *(("cifar-100-python",), ("cifar-100-python.tar.gz",), "https://www.cs.toronto.edu"),
        _cifar_sums(datasets.CIFAR100),
    ),
    "flowers102": TorchvisionEntry(
        *(datasets.Flowers102, readers.flowers102, *_TRAIN_VAL_TEST),
        ("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        *(("flowers-102/102flowers.tgz",), "https://www.robots.ox.ac.uk"),
        _flowers_sums(),
    ),
    "pets": TorchvisionEntry(
        *(datasets.OxfordIIITPet, readers.pets, *_TRAINVAL_TEST),
        ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        ("oxford-iiit-pet/images.tar.gz", "oxford-iiit-pet/annotations.tar.gz"),
        "https://www.robots.ox.ac.uk",
    ),
    "dtd": TorchvisionEntry(
        *(datasets.DTD, readers.dtd, *_TRAIN_VAL_TEST),
        *(("dtd/dtd",), ("dtd/dtd-r1.0.1.tar.gz",), "https://www.robots.ox.ac.uk"),
    ),
    "food101": TorchvisionEntry(
        *(datasets.Food101, readers.food101, *_TRAIN_TEST),
        *(("food-101/meta", "food-101/images"), ("food-101.tar.gz",), "http://data.vision.ee.ethz.ch"),
    ),
    "svhn": TorchvisionEntry(
        *(datasets.SVHN, readers.svhn, *_TRAIN_TEST),
        *(("train_32x32.mat", "test_32x32.mat"),) * 2,
        "http://ufldl.stanford.edu",
        _svhn_sums(),
    ),
    "eurosat": TorchvisionEntry(
        *(datasets.EuroSAT, readers.eurosat, *_UNDIVIDED),
        *(("eurosat/2750",), ("eurosat/EuroSAT.zip",), "https://huggingface.co"),
    ),
    "caltech101": TorchvisionEntry(
        *(datasets.Caltech101, readers.caltech101, *_UNDIVIDED),
        *(("caltech101/101_ObjectCategories",), ("caltech101/caltech-101.zip",), "https://data.caltech.edu"),
    ),
    "stl10": TorchvisionEntry(
        *(datasets.STL10, readers.stl10, *_TRAIN_TEST),
        *(("stl10_binary",), ("stl10_binary.tar.gz",), "http://ai.stanford.edu"),
        _stl10_sums(),
    ),
    "voc_masks": TorchvisionEntry(
        *(datasets.VOCSegmentation, readers.voc_masks, {"image_set": "train"}, None, {"image_set": "val"}),
        *(("VOCdevkit/VOC2012",), ("VOCtrainval_11-May-2012.tar",), "https://thor.robots.ox.ac.uk"),
        remark="tested on the official validation images",
        masked=True,
    ),
    "pets_masks": TorchvisionEntry(
        *(datasets.OxfordIIITPet, readers.pets_masks),
        *({"split": "trainval", **_OF_TRIMAPS}, None, {"split": "test", **_OF_TRIMAPS}),
        ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        ("oxford-iiit-pet/images.tar.gz", "oxford-iiit-pet/annotations.tar.gz"),
        "https://www.robots.ox.ac.uk",
        masked=True,
    ),
}
