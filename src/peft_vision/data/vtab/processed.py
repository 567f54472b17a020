"""This module reads VTAB-1k as it is commonly redistributed: a task's images with lists of labels, or parquet files.

root/vtab-1k/cifar/train800.txt  val200.txt  test.txt  [train800val200.txt]    lines such as images/test/000042.jpg 7
root/vtab-1k/cifar/images/test/000042.jpg                                      or without vtab-1k/
root/vtab-1k/cifar/train-00000-of-00001.parquet                                or from the hub

Parquet files hold a whole data set, or just its 800, 200 and test images.
"""

from dataclasses import dataclass
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import Release, refuse_shared
from peft_vision.data.benchmark_tables import BenchmarkSet
from peft_vision.data.parquet import Stored, read_splits
from peft_vision.data.pictures import Files, labelled
from peft_vision.data.reading import is_inside, quoted, read_lines, require, require_listed

TRAIN, VAL, TEST = "train800.txt", "val200.txt", "test.txt"
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
    lists = [_read(folder / name, task) for name in (TRAIN, VAL, TEST)]
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
    listed = next((place for place in places if (place / TRAIN).is_file()), None)
    folder = listed or next((place for place in places if place.is_dir()), places[0])
    inside = folder.relative_to(root)
    wanted = [f"{inside}/{name}" for name in (TRAIN, VAL, TEST, "images")]
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
