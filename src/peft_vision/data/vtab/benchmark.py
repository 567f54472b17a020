"""This module opens a task of VTAB-1k: 800 training images, 200 validation images and all test images (Zhai et al.,
2019, arXiv:1910.04867).

source      format of the images                                     the 1,000 training and validation images
processed   image files with lists, as commonly redistributed        given by the lists
original    the data set as it was published                         the benchmark's, or of `index_file`, or drawn
tfds        as TensorFlow Datasets prepared them                     the benchmark's
parquet     parquet files, in a folder or on the hub                 of `index_file`, or all of the files, or drawn

VTAB-1k as it is commonly redistributed is read here: a task's images with lists of labels, or parquet files.

root/vtab-1k/cifar/train800.txt  val200.txt  test.txt  [train800val200.txt]    lines such as images/test/000042.jpg 7
root/vtab-1k/cifar/images/test/000042.jpg                                      or without vtab-1k/
root/vtab-1k/cifar/train-00000-of-00001.parquet                                or from the hub

Parquet files hold a whole data set, or just its 800, 200 and test images.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.data.benchmark import TASKS, TRAIN, VAL, WAY_OUT, BenchmarkData, BenchmarkSet, Release, refuse_shared
from peft_vision.data.decode import format_of, worded_formats
from peft_vision.data.divide import without_images
from peft_vision.data.parquet import Stored, read_splits, require_on_disk
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import is_inside, located, quoted, read_lines, require, require_listed
from peft_vision.data.splits import LabelledSets
from peft_vision.data.vtab.choice import drawn, listed_images
from peft_vision.data.vtab.raw.table import READERS
from peft_vision.data.vtab.tfds import read_prepared

_TRAIN_LIST, _VAL_LIST, _TEST_LIST = "train800.txt", "val200.txt", "test.txt"
_BOTH = "train800val200.txt"
_DIGITS = 9  # at most, of a label
_SOURCE = (
    "copies are linked in github.com/ZhangYuanhan-AI/NOAH and github.com/JieShibo/PETL-ViT; or data.source=original, "
    "tfds or parquet"
)


@dataclass(frozen=True)
class _List:
    """The lines of a list: `paths`, relative to the list's folder, and their labels."""

    file: Path
    paths: list[str]
    labels: list[int]


def read_processed(root: Path, task: BenchmarkSet) -> Release:
    """Return the release. ConfigError unless the copy is complete: every list is valid and every listed image
    exists."""
    folder = _folder(root, task)
    lists = [_read(folder / name, task) for name in (_TRAIN_LIST, _VAL_LIST, _TEST_LIST)]
    refuse_shared(folder, {listing.file.name: listing.paths for listing in lists})
    for listing in lists:
        require_listed(folder, listing.paths, by=listing.file.name, remedy="unpack it anew")
    files = [listing.file for listing in lists]
    if (folder / _BOTH).is_file():
        _check_both(_read(folder / _BOTH, task), lists[0], lists[1])
        files.append(folder / _BOTH)
    train, val, test = (labelled(Files(folder, listing.paths), listing.labels) for listing in lists)
    classes = tuple(str(label) for label in range(task.num_classes))
    return Release(train, val, test, classes, tuple(files), remark="", chosen=True)


def folders(root: Path, task: BenchmarkSet) -> tuple[Path, Path]:
    """Return the two folders in which a task's copy may lie."""
    return root / "vtab-1k" / task.folder, root / task.folder


def _folder(root: Path, task: BenchmarkSet) -> Path:
    places = folders(root, task)
    listed = next((place for place in places if (place / _TRAIN_LIST).is_file()), None)
    folder = listed or next((place for place in places if place.is_dir()), places[0])
    inside = folder.relative_to(root)
    wanted = [f"{inside}/{name}" for name in (_TRAIN_LIST, _VAL_LIST, _TEST_LIST, "images")]
    require(root, wanted, what=f"parts of VTAB-1k's {task.title}", source=_SOURCE)
    return folder


def _read(file: Path, task: BenchmarkSet) -> _List:
    lines = read_lines(file, "lines such as images/test/000042.jpg 7", remedy="unpack it anew")
    while lines and not lines[-1].strip():
        lines.pop()
    paths, labels, seen = [], [], set()
    for number, line in enumerate(lines, start=1):
        path, _, label = line.strip().rpartition(" ")
        if not is_inside(path) or not label.isdecimal() or len(label) > _DIGITS:
            raise ConfigError(f"data.root: {file} line {number} is {quoted(line)}, should be 'images/SPLIT/FILE LABEL'")
        if int(label) >= task.num_classes:
            raise ConfigError(
                f"data.root: {file} line {number} has label {label}; {task.title} has {task.num_classes} classes, "
                f"0 to {task.num_classes - 1}"
            )
        if path in seen:
            raise ConfigError(f"data.root: {file} line {number} names {path} a second time")
        seen.add(path)
        paths.append(path)
        labels.append(int(label))
    if not lines:
        raise ConfigError(f"data.root: {file} is empty; unpack it anew")
    return _List(file, paths, labels)


def _check_both(both: _List, train: _List, val: _List) -> None:
    """Raise ConfigError if the labels of train800val200.txt are not those of the two lists. Its images are often copies
    in another folder, so only labels can be compared."""
    if sorted(both.labels) != sorted([*train.labels, *val.labels]):
        raise ConfigError(
            f"data.root: {both.file} has {len(both.labels)} images; its labels are not those of {train.file.name} "
            f"({len(train.labels)}) and {val.file.name} ({len(val.labels)}) together"
        )


def read_parquet(root: Path, task: BenchmarkSet, stored: Stored) -> Release:
    """Return the release; classes are those of the files, or numbers up to the task's highest label if they have no
    names. ConfigError if the test split is not configured."""
    if stored.test is None:
        raise ConfigError("data.parquet.test: got null, should name the split of the test images")
    opened = read_splits(stored, None if stored.hub else _parquet_folder(root, task), prefix="data.parquet.")
    classes = opened.classes
    if all(name.isdecimal() for name in classes) and len(classes) < task.num_classes:
        classes = tuple(str(label) for label in range(task.num_classes))
    return Release(train=opened.train, val=opened.val, test=opened.test, classes=classes, files=(), remark="")


def _parquet_folder(root: Path, task: BenchmarkSet) -> Path:
    places = folders(root, task)
    if not any(place.is_dir() for place in places):
        source = f"put its parquet files there or into {places[1]}, or data.parquet.hub=NAME takes them from the hub"
        require(root, [f"vtab-1k/{task.folder}/"], what=f"parts of VTAB-1k's {task.title}", source=source)
    return next(place for place in places if place.is_dir())


_log = logging.getLogger("peft_vision")
_RESAVED = ("processed", "parquet")  # sources whose images may have been saved again, possibly as JPEG
_LISTS = {
    "processed": "the copy's own",
    "original": "the official one, by the order of TensorFlow Datasets computed anew",
    "tfds": "as the official one, slices of the splits of TensorFlow Datasets",
}
"""Descriptions of the 1,000 images, for sources that fix them."""


@component
class Vtab(BenchmarkData):
    """A task of VTAB-1k. `index_file`: chooses the 1,000 images for a source without lists. As in the benchmark, some
    classes may lack a training image."""

    title = "VTAB-1k "
    gaps = True

    task: Literal[tuple(TASKS)]
    source: Literal["processed", "original", "tfds", "parquet"]
    index_file: Annotated[str | None, FILE]
    parquet: Stored

    def without_download(self) -> Self:
        """Return this data set if no file of it has to be downloaded, else raise ConfigError."""
        if self.source == "parquet":
            require_on_disk(self.parquet)
        return self

    def entry(self) -> BenchmarkSet:
        return TASKS[self.task]

    def release(self) -> tuple[Release, Mapping[str, str]]:
        task = self.entry()
        release, index_list = self._chosen(self._read(task))
        _require_classes(release, task, miniature=self.miniature)
        if task.small and self.source in _RESAVED and format_of(next(release.train.contents())) == "JPEG":
            _warn_of_jpeg(task.title)
        return release, {"index list": index_list} | ({"remark": release.remark} if release.remark else {})

    def provenance(self, sets: LabelledSets, seen: Sequence[Labelled]) -> dict[str, str]:
        """Return the provenance with the encoding and checksum of all 1,000 images instead of a sample."""
        sha, kinds = hashlib.sha256(), Counter()
        for part in (sets.train, sets.val):
            for index in part.indices.tolist():
                with suppress(OSError):  # a picture that is not there; what is corrupt was counted before
                    content = part.pictures.content(index)
                    sha.update(content)
                    kinds[format_of(content)] += 1
        lost = len(sets.train) + len(sets.val) - kinds.total()
        images = f"sha256 {sha.hexdigest()} of {len(sets.train)} + {len(sets.val)} images"
        images += f" without the {lost} that cannot be opened" * (lost > 0)
        return {**super().provenance(sets, seen), "encoding": worded_formats(kinds), "images": images}

    def _read(self, task: BenchmarkSet) -> Release:
        root = self.folder()
        match self.source:
            case "processed":
                return read_processed(root, task)
            case "tfds":
                return read_prepared(root, task)
            case "parquet":
                return read_parquet(root, task, self.parquet)
            case "original":
                return READERS[task.name](root)

    def _chosen(self, release: Release) -> tuple[Release, str]:
        """Return the release with its 800 and 200 images, and how these were chosen. ConfigError for an index file if
        the source fixes them."""
        if self.index_file is not None:
            if release.chosen:
                raise ConfigError(
                    f"data.index_file: with data.source={self.source} the 1,000 images of {self.task} are known; "
                    "data.index_file=null takes these"
                )
            file = located(self.index_file)
            return listed_images(file, release), f"given by {file.name}"
        if release.chosen:
            return release, _LISTS[self.source]
        if release.val is not None and len(release.train) <= TRAIN and len(release.val) <= VAL:
            return release, "the release's own"
        how = f"not the official one, drawn with data.split_seed={self.split_seed}"
        return drawn(release, seed=self.split_seed), how


def _require_classes(release: Release, task: BenchmarkSet, *, miniature: bool) -> None:
    """Raise ConfigError unless the number of classes is the task's, labels are in range and, except in a miniature,
    each class has a test image."""
    if len(release.classes) != task.num_classes:
        raise ConfigError(
            f"data: this copy of {task.title} has {len(release.classes)} classes, VTAB-1k's has {task.num_classes}"
        )
    for split, part in (("train", release.train), ("validation", release.val), ("test", release.test)):
        outside = part.labels[(part.labels < 0) | (part.labels >= task.num_classes)]
        if len(outside):
            raise ConfigError(
                f"data: {len(outside)} {split} images of {task.title} have labels such as {int(outside[0])}; "
                f"should be 0 to {task.num_classes - 1}"
            )
    missing = without_images(release.test, release.classes)
    if missing and not miniature:
        raise ConfigError(
            f"data: no test image of {len(missing)} of the {task.num_classes} classes of {task.title}, such as "
            f"{missing[0]!r}\n{WAY_OUT}"
        )


@cache  # one warning per task, though a run opens its data set several times
def _warn_of_jpeg(title: str) -> None:
    _log.warning(
        "the images of %s were saved as JPEG, which blurs pictures this small: CIFAR-100 loses about ten points of "
        "accuracy. data.source=original or tfds reads them as they were published",
        title,
    )
