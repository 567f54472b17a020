"""This module reads Diabetic Retinopathy: 88,702 retina photographs graded 0 to 4 (Kaggle and EyePACS, 2015).

train/10_left.jpeg  trainLabels.csv: image,level    test/1_left.jpeg  retinopathy_solution.csv: image,level,Usage
"""

import csv
from functools import partial
from io import TextIOWrapper
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import names_in, quoted, reading, refuse_repeated, short
from peft_vision.data.vtab.order import chosen, stored
from peft_vision.data.vtab.originals.derived import Derived
from peft_vision.data.vtab.originals.retina import btgraham_300
from peft_vision.data.vtab.presence import home, require
from peft_vision.data.vtab.release import Release

_TRAIN, _SOLUTION = "trainLabels.csv", "retinopathy_solution.csv"
_text = partial(TextIOWrapper, encoding="utf-8-sig", newline="")
_ENDING = ".jpeg"
_CLASSES = ("none", "mild", "moderate", "severe", "proliferative")


def read(root: Path) -> Release:
    """Return the release; the test images of the competition's public score are the validation part, those of the
    private score the test part."""
    folder = home(root, "diabetic_retinopathy", "diabetic-retinopathy-detection", "retinopathy")
    require(
        folder,
        ["train", _TRAIN, "test", _SOLUTION],
        what="Diabetic Retinopathy",
        site=f"www.kaggle.com/c/diabetic-retinopathy-detection/data, 83 GB to be unpacked; {_SOLUTION} in its forum",
    )
    rows = _rows(folder / _TRAIN, ("image", "level"), folder / "train")
    train = _labelled(root, folder / "train", folder / _TRAIN, [(name, level) for name, level in rows], "train")
    solution = _rows(folder / _SOLUTION, ("image", "level", "Usage"), folder / "test")
    val, test = (
        _labelled(
            root,
            folder / "test",
            folder / _SOLUTION,
            [(name, level) for name, level, row_usage in solution if row_usage == usage],
            split,
        )
        for usage, split in (("Public", "validation"), ("Private", "test"))
    )
    return chosen(train, val, test, classes=_CLASSES, files=[folder / _TRAIN, folder / _SOLUTION])


def _rows(file: Path, columns: tuple[str, ...], images: Path) -> list[tuple[str, ...]]:
    """Read the rows of a table with a row for each picture in `images`; ConfigError if it is incomplete or
    malformed."""
    expected = f"a table with columns {', '.join(columns)}"
    with reading(file, expected), open_regular(file) as binary, _text(binary) as text:
        rows = [tuple(row[column] for column in columns) for row in csv.DictReader(text)]
    if not rows:
        raise ConfigError(f"data.root: {file} has no row, should be {expected}; fetch it again")
    refuse_repeated((row[0] for row in rows), file)
    if wrong := [row for row in rows if row[1] not in set(map(str, range(len(_CLASSES))))]:
        raise ConfigError(
            f"data.root: {file} gives image {short(str(wrong[0][0]))} level {quoted(wrong[0][1])}, should be 0 to "
            f"{len(_CLASSES) - 1}"
        )
    named = {f"{row[0]}{_ENDING}" for row in rows}
    if unnamed := sorted(name for name in names_in(images) - named if name.endswith(_ENDING)):
        raise ConfigError(
            f"data.root: {file} has no row for {len(unnamed)} of the images in {images}, such as {short(unnamed[0])}; "
            "it may be cut short"
        )
    return rows


def _labelled(root: Path, images: Path, file: Path, rows: list[tuple[str, str]], split: str) -> Labelled:
    there = names_in(images)
    if absent := [name for name, _ in rows if f"{name}{_ENDING}" not in there]:
        raise ConfigError(
            f"data.root: {images} lacks {len(absent)} of the {len(rows)} images of {file.name}, such as "
            f"{absent[0]}.jpeg\nunpack all parts of the archive"
        )
    folder = images.relative_to(root).as_posix()
    pictures = Derived(Files(root, [f"{folder}/{name}.jpeg" for name, _ in rows]), btgraham_300)
    return stored(labelled(pictures, [int(level) for _, level in rows]), split, [name for name, _ in rows])
