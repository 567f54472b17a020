"""This module reads DMLab: 110,913 views of a maze, 360 x 480, labelled by the kind of an object and its distance
(Beattie et al., 2016, arXiv:1612.03801).

dmlab-train.tfrecord-*  dmlab-validation.tfrecord-*  dmlab-test.tfrecord-*    of image (JPEG), filename and label
"""

from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import Release
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import home, reading, require, short
from peft_vision.data.vtab.choice import first_thousand, tfds_order
from peft_vision.data.vtab.tfrecord import Encoded, number, record_images, text

_CLASSES = tuple(f"distance {distance}" for distance in range(6))


def read(root: Path) -> Release:
    """Return the official splits."""
    folder = home(root, "dmlab")
    splits = ("train", "validation", "test")
    require(
        folder,
        [f"dmlab-{split}.tfrecord*" for split in splits],
        what="parts of DMLab",
        source="DMLab is at storage.googleapis.com/dmlab-vtab/dmlab.tar.gz (3 GB), to be unpacked",
    )
    train, val, test = (_split(folder, split) for split in splits)
    return first_thousand(train, val, test, classes=_CLASSES, files=())


def _split(folder: Path, split: str) -> Labelled:
    files = sorted(folder.glob(f"dmlab-{split}.tfrecord*"))
    places, keys, labels = [], {}, []
    for place, features in record_images(files, "image", "filename", "label"):
        with reading(place.file, "records with a filename and a label"):
            label, key = number(features, "label"), text(features, "filename")
        if not 0 <= label < len(_CLASSES):
            raise ConfigError(
                f"data.root: {place.file} has an image of label {label}, should be 0 to {len(_CLASSES) - 1}"
            )
        if key in keys:
            raise ConfigError(f"data.root: {place.file} holds {short(key)} a second time; fetch it again")
        places.append(place)
        keys[key] = None
        labels.append(label)
    if without := sorted(set(files) - {place.file for place in places}):
        raise ConfigError(f"data.root: no image in {without[0].name} of {folder}; fetch it again")
    return tfds_order(labelled(Encoded(places), labels), split, keys)
