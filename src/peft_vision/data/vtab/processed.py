"""This module reads VTAB-1k as it is commonly redistributed: the images of a task, saved with lists of labels.

root/vtab-1k/cifar/train800.txt  val200.txt  test.txt  [train800val200.txt]    lines such as images/test/000042.jpg 7
root/vtab-1k/cifar/images/test/000042.jpg                                      or without vtab-1k/
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import is_inside, names_in, quoted, read_lines
from peft_vision.data.vtab.presence import require
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import VtabTask

TRAIN, VAL, TEST = "train800.txt", "val200.txt", "test.txt"
_BOTH = "train800val200.txt"
_DIGITS = 9  # at most, of a label
_SITE = "github.com/ZhangYuanhan-AI/NOAH and github.com/JieShibo/PETL-ViT; or data.source=original, tfds or parquet"


@dataclass(frozen=True)
class _List:
    """The lines of a list: `paths`, relative to the list's folder, and their labels."""

    file: Path
    paths: list[str]
    labels: list[int]


def read_processed(root: Path, task: VtabTask) -> Release:
    """Return the release. ConfigError unless the copy is complete: every list is valid and every listed image
    exists."""
    folder = _folder(root, task)
    lists = [_read(folder / name, task) for name in (TRAIN, VAL, TEST)]
    _refuse_shared(lists)
    _refuse_missing(folder, lists, task)
    files = [listing.file for listing in lists]
    if (folder / _BOTH).is_file():
        _check_both(_read(folder / _BOTH, task), lists[0], lists[1])
        files.append(folder / _BOTH)
    train, val, test = (_pictures(folder, listing) for listing in lists)
    return Release(
        train=train,
        val=val,
        test=test,
        classes=tuple(str(label) for label in range(task.num_classes)),
        files=tuple(files),
        remark="",
        chosen=True,
    )


def folders(root: Path, task: VtabTask) -> tuple[Path, Path]:
    """Return the two folders in which a task's copy may lie."""
    return root / "vtab-1k" / task.folder, root / task.folder


def _folder(root: Path, task: VtabTask) -> Path:
    places = folders(root, task)
    listed = next((place for place in places if (place / TRAIN).is_file()), None)
    folder = listed or next((place for place in places if place.is_dir()), places[0])
    inside = folder.relative_to(root)
    wanted = [f"{inside}/{name}" for name in (TRAIN, VAL, TEST, "images")]
    require(root, wanted, what=f"VTAB-1k's {task.title}", site=_SITE)
    return folder


def _read(file: Path, task: VtabTask) -> _List:
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


def _refuse_shared(lists: Sequence[_List]) -> None:
    """Raise ConfigError for an image name in two lists. Content is not compared, because some tasks have equal images,
    such as dSprites' squares turned by a quarter."""
    for place, one in enumerate(lists):
        for other in lists[place + 1 :]:
            shared = set(one.paths).intersection(other.paths)
            if shared:
                raise ConfigError(
                    f"data.root: {one.file} and {other.file.name} both name {len(shared)} images: {min(shared)}"
                    f"{', ...' if shared - {min(shared)} else ''}"
                )


def _refuse_missing(folder: Path, lists: Sequence[_List], task: VtabTask) -> None:
    there: dict[str, set[str]] = {}
    for listing in lists:
        missing = []
        for path in listing.paths:
            place, _, name = path.rpartition("/")
            if place not in there:  # each folder is listed once: checking 74,000 files one by one takes seconds
                where = folder / place
                there[place] = names_in(where) if os.path.isdir(where) else set()
            if name not in there[place]:
                missing.append(path)
        if missing:
            raise ConfigError(
                f"data.root: {len(missing):,} of the {len(listing.paths):,} images of {listing.file} are missing: "
                f"{missing[0]}{', ...' if missing[1:] else ''}; unpack it anew"
            )


def _check_both(both: _List, train: _List, val: _List) -> None:
    """Raise ConfigError if the labels of train800val200.txt are not those of the two lists. Its images are often copies
    in another folder, so only labels can be compared."""
    if sorted(both.labels) != sorted([*train.labels, *val.labels]):
        raise ConfigError(
            f"data.root: {both.file} has {len(both.labels)} images; its labels are not those of {train.file.name} "
            f"({len(train.labels)}) and {val.file.name} ({len(val.labels)}) together"
        )


def _pictures(folder: Path, listing: _List) -> Labelled:
    return labelled(Files(folder, listing.paths), listing.labels)
