"""This module reads Caltech101 with its background class: 9,144 images of 102 classes (Fei-Fei et al., 2004).

caltech101/101_ObjectCategories/airplanes/image_0001.jpg
"""

from pathlib import Path

import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.divide import TEST_SEED
from peft_vision.data.draws import draw
from peft_vision.data.folders import read_folders, sub_folders
from peft_vision.data.vtab.presence import home, require
from peft_vision.data.vtab.release import Release

TRAIN_PER_CLASS = 30
_FOLDER, _BACKGROUND = "101_ObjectCategories", "BACKGROUND_Google"


def read(root: Path) -> Release:
    """Return the release: 30 images of each class may train, the others test.

    The benchmark's 30 depended on the order in which a machine listed the files, so they are drawn here. Of the
    background class it took 29 images and `tmp`, a file in the folder that is not an image: hence 6,085 test images.
    """
    require(
        home(root, "caltech101", "caltech-101"),
        [_FOLDER],
        what="Caltech101",
        site="data.caltech.edu/records/mzrjq-6wc02; a run with data=caltech101 fetches it to data.root",
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
