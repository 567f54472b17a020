"""This module reads CIFAR-100, DTD, Flowers102, Pets and SVHN in torchvision's layout, with VTAB-1k's choice of images.

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
from peft_vision.data.pictures import Files, Labelled
from peft_vision.data.torchvision_sets import read_split
from peft_vision.data.torchvision_table import TABLE
from peft_vision.data.vtab.order import chosen, percent, stored
from peft_vision.data.vtab.presence import require
from peft_vision.data.vtab.release import Reader, Release

_KEY_PARTS = {"cifar100": 0, "dtd": 2, "flowers102": 1, "pets": 1, "svhn": 0}  # parts of the path; 0: a number
_TRAIN_PERCENT = {"cifar100": 90, "pets": 80, "svhn": 90}  # the rest is VTAB's validation part
_LABEL_FILES = {
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test"),
    "dtd": ("dtd/dtd/labels/train1.txt", "dtd/dtd/labels/val1.txt", "dtd/dtd/labels/test1.txt"),
    "flowers102": ("flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
    "pets": ("oxford-iiit-pet/annotations/trainval.txt", "oxford-iiit-pet/annotations/test.txt"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
}


def read(name: str, root: Path) -> Release:
    """Read the release of torchvision's data set `name`."""
    entry = TABLE[name]
    fetched = f"{entry.site.removeprefix('https://').removeprefix('http://')}; a run with data={name} fetches it"
    require(root, entry.contents, what=name, site=f"{fetched} to data.root")
    split = partial(read_split, name, root, again=f"fetch it again, by a run with data={name}")
    train, classes = split(entry.train)
    test, test_classes = split(entry.test)
    if test_classes != classes:
        files = " and ".join(str(root / file) for file in _LABEL_FILES[name])
        raise ConfigError(f"data.root: {files} differ in their classes; fetch them again")
    train = stored(train, "train", _keys(name, train))
    if entry.val is None:
        share = _TRAIN_PERCENT[name]
        train, val = percent(train, 0, share), percent(train, share, 100)
    else:
        val = split(entry.val)[0]
        val = stored(val, "validation", _keys(name, val))
    return chosen(train, val, test, classes=classes, files=[root / file for file in _LABEL_FILES[name]])


def _keys(name: str, part: Labelled) -> list[str | int]:
    """Return the keys by which TensorFlow Datasets orders the images."""
    parts, pictures = _KEY_PARTS[name], part.pictures
    if not isinstance(pictures, Files):
        return list(range(len(part)))
    return ["/".join(Path(path).parts[-parts:]) for path in pictures.paths]


READERS: Mapping[str, Reader] = {name: partial(read, name) for name in _KEY_PARTS}
