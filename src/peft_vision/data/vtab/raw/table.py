"""This module lists the readers of VTAB-1k's tasks for data sets as they were first published.

CIFAR-100, DTD, Flowers102, Pets and SVHN are read here, in torchvision's layout:

            keys in TensorFlow Datasets     validation images
cifar100    numbers                         the last tenth of train
dtd         class/file                      official
flowers102  file                            official
pets        file                            the last fifth of train
svhn        numbers                         the last tenth of train

So are those that are published as a folder per class:

eurosat/2750/AnnualCrop/AnnualCrop_1.jpg                   27,000 images of 10 classes, 64 px (Helber et al., 2019)
NWPU-RESISC45/airplane/airplane_001.jpg                    31,500 images of 45 classes, 256 px (Cheng et al., 2017)
caltech101/101_ObjectCategories/airplanes/image_0001.jpg   9,144 images of 102 classes, one of them the background
                                                           (Fei-Fei et al., 2004)

VTAB splits EuroSAT and RESISC45 into 60, 20, 20 %.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import Reader, Release
from peft_vision.data.divide import TEST_SEED
from peft_vision.data.draws import draw
from peft_vision.data.folders import read_folders, sub_folders
from peft_vision.data.pictures import Files, Labelled
from peft_vision.data.reading import home, require
from peft_vision.data.torchvision_sets import read_split
from peft_vision.data.torchvision_table import TABLE
from peft_vision.data.vtab.choice import first_thousand, percent, tfds_order
from peft_vision.data.vtab.raw import (
    camelyon,
    clevr,
    dmlab,
    dsprites,
    kitti,
    retinopathy,
    smallnorb,
    sun397,
)

_TRAIN, _VAL = 60, 80  # percent, the ends of the train and the validation part
TRAIN_PER_CLASS = 30
_FOLDER, _BACKGROUND = "101_ObjectCategories", "BACKGROUND_Google"


def eurosat(root: Path) -> Release:
    """Read EuroSAT's RGB version, from the older or the newer archive."""
    folder = home(root, "eurosat/2750", "EuroSAT/2750", "2750", "EuroSAT_RGB", "eurosat/EuroSAT_RGB")
    if folder == root:
        site = "zenodo.org/records/7711810 (EuroSAT_RGB.zip); a run with data=eurosat fetches it to data.root"
        require(root, ["eurosat/2750"], what="parts of EuroSAT", source=f"EuroSAT is at {site}")
    return _release(root, folder)


def resisc45(root: Path) -> Release:
    parent = home(root, "resisc45")
    site = "1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, linked in github.com/tensorflow/datasets (NWPU-RESISC45.rar)"
    require(parent, ["NWPU-RESISC45"], what="parts of RESISC45", source=f"RESISC45 is at {site}")
    return _release(root, parent / "NWPU-RESISC45")


def _release(root: Path, folder: Path) -> Release:
    classes = [path.name for path in sub_folders(folder, key="data.root")]
    images = read_folders(root, folder, {name: label for label, name in enumerate(classes)}, key="data.root")
    files = [Path(path) for path in images.pictures.paths]
    images = tfds_order(images, "train", [f"{file.parent.name}_{file.name}" for file in files])
    train, val, test = percent(images, 0, _TRAIN), percent(images, _TRAIN, _VAL), percent(images, _VAL, 100)
    return first_thousand(train, val, test, classes=classes, files=())


def caltech101(root: Path) -> Release:
    """Return the release: 30 images of each class may train, the others test.

    The benchmark's 30 depended on the order in which a machine listed the files, so they are drawn here. Of the
    background class it took 29 images and `tmp`, a file in the folder that is not an image: hence 6,085 test images.
    """
    require(
        home(root, "caltech101", "caltech-101"),
        [_FOLDER],
        what="parts of Caltech101",
        source="Caltech101 is at data.caltech.edu/records/mzrjq-6wc02; a run with data=caltech101 fetches it to "
        "data.root",
    )
    folder = home(root, "caltech101", "caltech-101") / _FOLDER
    classes = [path.name for path in sub_folders(folder, key="data.root")]
    if _BACKGROUND not in classes:
        raise ConfigError(
            f"data.root: {folder} lacks {_BACKGROUND}; VTAB counts it among its 102 classes\nunpack the archive again"
        )
    images = read_folders(root, folder, {name: label for label, name in enumerate(classes)}, key="data.root")
    count = int(torch.bincount(images.labels).clamp(max=TRAIN_PER_CLASS).sum())
    train, test = draw(images.labels, count, seed=TEST_SEED, least=TRAIN_PER_CLASS, leave=0)
    spared = train[images.labels[train] == classes.index(_BACKGROUND)][:1]
    train, test = train[train != spared], torch.cat([test, spared]).sort().values
    return Release(
        train=images.subset(train),
        val=None,
        test=images.subset(test),
        classes=tuple(classes),
        files=(),
        remark=f"the {TRAIN_PER_CLASS} images of each class that may train were drawn by peft-vision; the others test",
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
    "caltech101": caltech101,
    "eurosat": eurosat,
    "resisc45": resisc45,
    "sun397": sun397.read,
    "camelyon": camelyon.read,
    "retinopathy": retinopathy.read,
    **clevr.READERS,
    "dmlab": dmlab.read,
    "kitti": kitti.read,
    **dsprites.READERS,
    **smallnorb.READERS,
}
"""The readers by the names of `benchmark.TASKS`."""
