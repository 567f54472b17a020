"""This module lists the readers of VTAB-1k's tasks for data sets as they were first published.

CIFAR-100, DTD, Flowers102, Pets and SVHN are read here, in torchvision's layout:

            keys in TensorFlow Datasets     validation images
cifar100    numbers                         the last tenth of train
dtd         class/file                      official
flowers102  file                            official
pets        file                            the last fifth of train
svhn        numbers                         the last tenth of train
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import Reader, Release
from peft_vision.data.pictures import Files, Labelled
from peft_vision.data.reading import require
from peft_vision.data.torchvision_sets import read_split
from peft_vision.data.torchvision_table import TABLE
from peft_vision.data.vtab.choice import first_thousand, percent, tfds_order
from peft_vision.data.vtab.raw import (
    camelyon,
    class_folders,
    clevr,
    dmlab,
    dsprites,
    kitti,
    retinopathy,
    smallnorb,
    sun397,
)

_KEY_PARTS = {"cifar100": 0, "dtd": 2, "flowers102": 1, "pets": 1, "svhn": 0}  # parts of the path; 0: a number
_TRAIN_PERCENT = {"cifar100": 90, "pets": 80, "svhn": 90}  # the rest is VTAB's validation part
_LABEL_FILES = {
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test"),
    "dtd": ("dtd/dtd/labels/train1.txt", "dtd/dtd/labels/val1.txt", "dtd/dtd/labels/test1.txt"),
    "flowers102": ("flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
    "pets": ("oxford-iiit-pet/annotations/trainval.txt", "oxford-iiit-pet/annotations/test.txt"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
}


def _read_torchvision(name: str, root: Path) -> Release:
    """Read the release of torchvision's data set `name`."""
    entry = TABLE[name]
    fetched = f"{entry.site.removeprefix('https://').removeprefix('http://')}; a run with data={name} fetches it"
    require(root, entry.contents, what=f"parts of {name}", source=f"{name} is at {fetched} to data.root")
    split = partial(read_split, name, root, again=f"fetch it again, by a run with data={name}")
    train, classes = split(entry.train)
    test, test_classes = split(entry.test)
    if test_classes != classes:
        files = " and ".join(str(root / file) for file in _LABEL_FILES[name])
        raise ConfigError(f"data.root: {files} differ in their classes; fetch them again")
    train = tfds_order(train, "train", _keys(name, train))
    if entry.val is None:
        share = _TRAIN_PERCENT[name]
        train, val = percent(train, 0, share), percent(train, share, 100)
    else:
        val = split(entry.val)[0]
        val = tfds_order(val, "validation", _keys(name, val))
    return first_thousand(train, val, test, classes=classes, files=[root / file for file in _LABEL_FILES[name]])


def _keys(name: str, part: Labelled) -> list[str | int]:
    """Return the keys by which TensorFlow Datasets orders the images."""
    parts, pictures = _KEY_PARTS[name], part.pictures
    if not isinstance(pictures, Files):
        return list(range(len(part)))
    return ["/".join(Path(path).parts[-parts:]) for path in pictures.paths]


READERS: Mapping[str, Reader] = {
    **{name: partial(_read_torchvision, name) for name in _KEY_PARTS},
    "caltech101": class_folders.caltech101,
    "eurosat": class_folders.eurosat,
    "resisc45": class_folders.resisc45,
    "sun397": sun397.read,
    "camelyon": camelyon.read,
    "retinopathy": retinopathy.read,
    **clevr.READERS,
    "dmlab": dmlab.read,
    "kitti": kitti.read,
    **dsprites.READERS,
    **smallnorb.READERS,
}
"""The readers by the names of `benchmark_tables.TASKS`."""
