"""This module reads FGVC's data sets as they were released: what a local copy states about its pictures.

CUB-200-2011 (Wah et al., 2011) and NABirds (Van Horn et al., 2015) have text lists, whose lines hold the id of an image
or class and a value.

images.txt               1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg, below images/
image_class_labels.txt   1 1
train_test_split.txt     1 0, where 1 is for training
classes.txt              1 001.Black_footed_Albatross

Image ids may be any words, class ids any numbers: of NABirds' 1,011 classes, 555 have images.

The labels and class names of three are in MATLAB tables.

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

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import Flowers102

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import BenchmarkSet, Release, refuse_shared
from peft_vision.data.matlab import read_mat, texts
from peft_vision.data.pictures import Files, labelled
from peft_vision.data.reading import (
    absent,
    missing_among,
    quoted,
    read_lines,
    refuse_repeated,
    require,
    short,
    whole_numbers,
)

Label = int | str


@dataclass(frozen=True)
class Copy:
    """A copy of the data set `entry` in its folder below `root`."""

    root: Path
    entry: BenchmarkSet

    @property
    def folder(self) -> Path:
        return self.root / self.entry.folder

    def require(self, *names: str) -> None:
        """Raise ConfigError unless these files and folders exist in the folder."""
        require(self.root, self._below(names), what=f"parts of {self.entry.title}", **self._origin)

    def require_pictures(self, paths: list[str], *, by: str) -> None:
        """Raise ConfigError unless a picture lies at each of `paths` below the folder, which the files `by` name."""
        if missing := missing_among(paths, self.folder):
            raise absent(self.root, self._below(sorted(missing)), len(paths), what=f"images of {by}", **self._origin)

    def _below(self, names: list[str] | tuple[str, ...]) -> list[str]:
        return [f"{self.entry.folder}/{name}" for name in names]

    @property
    def _origin(self) -> dict[str, str | tuple[str, ...]]:
        return {"source": f"{self.entry.title} is at {self.entry.site}", "archives": self.entry.packed}


@dataclass(frozen=True)
class Listing:
    """The contents of a copy. `splits`: for "train", "test" and perhaps "val", the label of each picture by its path
    below the copy's folder. Labels are all integers or all strings, in any range. `names`: the class names by label.
    `files`: the files that state this, for checksums."""

    splits: Mapping[str, Mapping[str, Label]]
    names: Mapping[Label, str]
    files: tuple[Path, ...]

    def release(self, copy: Copy, remark: str) -> Release:
        """Return the release. ConfigError unless each listed picture exists, and is in one split only. Class ids follow
        the sorted labels of all splits together, so a split that lacks a class has the same ids."""
        listed = ", ".join(file.name for file in self.files) or copy.entry.title
        copy.require_pictures([path for labels in self.splits.values() for path in labels], by=listed)
        refuse_shared(copy.folder, self.splits, key="data.source")
        ids = {label: place for place, label in enumerate(sorted(self.names))}
        parts = {
            split: labelled(Files(copy.folder, list(labels)), [ids[label] for label in labels.values()])
            for split, labels in self.splits.items()
        }
        return Release(parts["train"], parts.get("val"), parts["test"], self._classes(), self.files, remark)

    def _classes(self) -> tuple[str, ...]:
        """Return the class names in the order of their labels; classes with the same name have their labels added."""
        counts, names = Counter(self.names.values()), self.names
        return tuple(
            names[label] if counts[names[label]] == 1 else f"{names[label]} ({label})" for label in sorted(names)
        )


_FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_DIGITS = 9  # at most, of a class number


def read_birds(copy: Copy) -> Listing:
    """Return the listing; labels are the class ids. ConfigError if the lists disagree."""
    copy.require(*_FILES, "images")
    files = tuple(copy.folder / name for name in _FILES)
    paths, classes, flags, names = map(_column, files)
    refuse_repeated(paths.values(), files[0])
    for file, column in zip(files[1:3], (classes, flags), strict=True):
        if strange := sorted(paths.keys() ^ column.keys()):
            raise ConfigError(
                f"data.root: {file} and {files[0]} differ in {len(strange)} images, first {quoted(strange[0])}; "
                "fetch both again"
            )
    known = {_number(files[3], name): title for name, title in names.items()}
    labels = {image: _number(files[1], name) for image, name in classes.items()}
    if unnamed := sorted(set(labels.values()) - known.keys()):
        raise ConfigError(f"data.root: {files[3]} lacks the class {unnamed[0]} of {files[1]}; fetch it again")
    if strange := [image for image, flag in flags.items() if flag not in ("0", "1")]:
        raise ConfigError(
            f"data.root: {files[2]} has {quoted(flags[strange[0]])} for image {quoted(strange[0])}, "
            "should be 1 (training) or 0"
        )
    splits = {
        split: {f"images/{paths[image]}": labels[image] for image in paths if flags[image] == flag}
        for split, flag in (("train", "1"), ("test", "0"))
    }
    return Listing(splits, {label: known[label] for label in sorted(set(labels.values()))}, files)


def _column(file: Path) -> dict[str, str]:
    """Read the lines of a file into a mapping from the first word of each line to the rest of that line."""
    column = {}
    for number, line in enumerate(read_lines(file, "lines of an id and what belongs to it"), start=1):
        first, _, rest = line.strip().partition(" ")
        if not rest or first in column:
            what = "says again what a line before it does" if rest else "should be two words"
            raise ConfigError(f"data.root: {file} line {number} is {quoted(line)}, {what}; fetch it again")
        column[first] = rest.strip()
    return column


def _number(file: Path, word: str) -> int:
    if not word.isdecimal() or len(word) > _DIGITS:
        raise ConfigError(f"data.root: {file} has the class {quoted(word)}, should be a number; fetch it again")
    return int(word)


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
