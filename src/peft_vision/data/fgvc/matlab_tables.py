"""This module reads the three data sets of FGVC whose labels and class names are in MATLAB tables.

Stanford Cars (Krause et al., 2013), in torchvision's layout: cars_train/00001.jpg, cars_test/00001.jpg and so on
    devkit/cars_train_annos.mat          annotations: fname and class, 1 to 196, of each training image
    cars_test_annos_withlabels.mat       the same for the test images; the file in the devkit has no labels
    devkit/cars_meta.mat                 class_names
Stanford Dogs (Khosla et al., 2011): Images/n02085620-Chihuahua/n02085620_5927.jpg and so on
    train_list.mat, test_list.mat        file_list: paths below Images/; labels: 1 to 120
Oxford Flowers (Nilsback & Zisserman, 2008): jpg/image_00001.jpg and so on
    imagelabels.mat                      labels: the label, 1 to 102, of each image in turn
    setid.mat                            trnid, valid, tstid: the numbers of the images of each split
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import Flowers102

from peft_vision.core.config import ConfigError
from peft_vision.data.fgvc.listing import Copy, Listing
from peft_vision.data.matlab import read_mat, texts
from peft_vision.data.reading import refuse_repeated, short, whole_numbers

_MOST = 2**31 - 1
_TEST_LABELS = "cars_test_annos_withlabels.mat"
_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}


def numbers(file: Path, values: Any, *, what: str) -> np.ndarray:
    """Return `values` as int64 (n,). ConfigError unless they are whole numbers from 1."""
    if values.dtype.hasobject and values.ndim == 1:  # a field of a struct array
        values = np.array([np.asarray(value).item() if np.size(value) == 1 else None for value in values])
    return whole_numbers(values, file, what=what, within=(1, _MOST), floats=True)


def labelled_paths(file: Path, paths: np.ndarray, labels: np.ndarray, *, folder: str) -> dict[str, int]:
    """Return the label of each path, with `folder` prefixed. ConfigError if their numbers differ or a path is
    repeated."""
    names, classes = texts(file, paths, what="names"), numbers(file, labels, what="labels").tolist()
    if len(names) != len(classes):
        raise ConfigError(f"data.root: {file} has {len(names)} names and {len(classes)} labels; fetch it again")
    refuse_repeated(names, file)
    return {f"{folder}/{name}": label for name, label in zip(names, classes, strict=True)}


def named(file: Path, labels: Iterable[int], names: list[str], *, of: str) -> dict[int, str]:
    """Return the name of each label in `file`; `names` belong to the labels 1, 2 and so on, and come from `of`."""
    found = sorted(set(labels))
    if strange := [label for label in found if not 1 <= label <= len(names)]:
        raise ConfigError(
            f"data.root: {file} has the label {strange[0]}, should be 1 to {len(names)}, the names of {of}; "
            "fetch it again"
        )
    return {label: names[label - 1] for label in found}


def read_cars(copy: Copy) -> Listing:
    """Return the listing; the labels of the test images may also lie in the devkit."""
    inside = (copy.folder / "devkit" / _TEST_LABELS).is_file()
    test = f"devkit/{_TEST_LABELS}" if inside else _TEST_LABELS
    copy.require("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", test, "cars_train", "cars_test")
    meta = copy.folder / "devkit" / "cars_meta.mat"
    (titles,) = read_mat(meta, "class_names")
    files = {"train": copy.folder / "devkit" / "cars_train_annos.mat", "test": copy.folder / test}
    splits = {split: _car_labels(file, f"cars_{split}") for split, file in files.items()}
    names: dict[int, str] = {}
    for split, file in files.items():
        names |= named(file, splits[split].values(), texts(meta, titles, what="class_names"), of=meta.name)
    return Listing(splits, names, (*files.values(), meta))


def _car_labels(file: Path, folder: str) -> dict[str, int]:
    (table,) = read_mat(file, "annotations")
    if table.ndim != 1 or not {"fname", "class"} <= set(table.dtype.names or ()):
        raise ConfigError(f"data.root: the annotations in {file} have no fname and class; it is not the published file")
    return labelled_paths(file, table["fname"], table["class"], folder=folder)


def read_dogs(copy: Copy) -> Listing:
    """Return the listing; classes are named by their folders."""
    copy.require("train_list.mat", "test_list.mat", "Images")
    files = {split: copy.folder / f"{split}_list.mat" for split in ("train", "test")}
    splits = {
        split: labelled_paths(file, *read_mat(file, "file_list", "labels"), folder="Images")
        for split, file in files.items()
    }
    for split, file in files.items():
        if strange := [path for path in splits[split] if path.count("/") != 2]:
            raise ConfigError(f"data.root: {file} names {short(strange[0])}, should be CLASS/FILE; fetch it again")
    names = {label: path.split("/")[1] for labels in splits.values() for path, label in labels.items()}
    return Listing(splits, names, tuple(files.values()))


def read_flowers(copy: Copy) -> Listing:
    """Return the listing; classes are named as in torchvision."""
    copy.require("imagelabels.mat", "setid.mat", "jpg")
    labels_file, splits_file = copy.folder / "imagelabels.mat", copy.folder / "setid.mat"
    labels = numbers(labels_file, *read_mat(labels_file, "labels"), what="labels").tolist()
    splits = {}
    for (split, name), values in zip(_SPLITS.items(), read_mat(splits_file, *_SPLITS.values()), strict=True):
        images = numbers(splits_file, values, what=name).tolist()
        refuse_repeated(images, splits_file)
        if strange := [number for number in images if number > len(labels)]:
            raise ConfigError(
                f"data.root: {splits_file} names the image {strange[0]}, {labels_file} has {len(labels)} labels; "
                "fetch both again"
            )
        splits[split] = {f"jpg/image_{number:05d}.jpg": labels[number - 1] for number in images}
    occurring = [label for labels_by_path in splits.values() for label in labels_by_path.values()]
    return Listing(
        splits, named(labels_file, occurring, Flowers102.classes, of="the data set"), (labels_file, splits_file)
    )
