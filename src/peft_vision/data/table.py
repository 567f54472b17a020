"""This module opens a table of pictures: their paths in one column, their labels in others.

    path,label,split          labels_are=classes: a class each
    a.jpg,cat,train
    path,labels               labels_are=several, separator=';'
    a.jpg,cat;indoors
    path,cat,dog,indoors      labels_are=several: a column of 0 and 1 for each label
    a.jpg,1,0,1
    path,age,height           labels_are=numbers: a column for each target
    a.jpg,31,1.8

The table is one file, with or without a column of splits, or one file for each split. Without a test split,
`test_fraction` is drawn for testing.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.core.output import shown
from peft_vision.data.base import Data
from peft_vision.data.folders import SPLIT_NAMES, split_named
from peft_vision.data.pictures import Files, labelled
from peft_vision.data.reading import first_few, is_inside, located, missing_among, quoted, short
from peft_vision.data.splits import LabelledSets
from peft_vision.data.table_files import DELIMITERS, TableCell, TableFile, read_columns

_LONGEST_NAME = 255
_MOST_DIGITS = 18
_ZERO_OR_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class SplitRows:
    """The rows of a table at `places` that are one split."""

    file: TableFile
    places: Sequence[int]

    def cells(self, column: str) -> list[TableCell]:
        """Return the cells of the rows in a column."""
        return [self.file.cells[column][place] for place in self.places]

    def require(self, column: str, is_right: Callable[[TableCell], bool], *, what: str, wanted: str) -> None:
        """Raise ConfigError for the first cell that is not right, as TableFile.require does."""
        self.file.require(column, self.places, is_right, what=what, wanted=wanted)


@component
class ImageTable(Data):
    """A table of pictures in the file `path`, or in a file for each of `train`, `val` and `test`.

    `root`: the folder that the paths in column `image_column` begin in; None: that of the table. `label_columns`: one
    for classes; for several labels one, whose cells `separator` divides, or a column of 0 and 1 for each label; for
    numbers one for each target. `split_column` says train, val or test; None: the file is not divided. `delimiter`:
    None for that of the file's ending, tabs for .tsv and commas for others.
    """

    path: Annotated[str | None, FILE]
    train: Annotated[str | None, FILE]
    val: Annotated[str | None, FILE]
    test: Annotated[str | None, FILE]
    root: Annotated[str | None, FILE]
    delimiter: Literal[*DELIMITERS] | None
    image_column: str
    labels_are: Literal["classes", "several", "numbers"]
    label_columns: Annotated[tuple[str, ...], Field(min_length=1)]
    separator: Annotated[str, Field(min_length=1)] | None
    split_column: str | None
    test_fraction: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _fits(self) -> "ImageTable":
        if self.path is not None and (self.val is not None or self.test is not None):
            raise ValueError("val and test go with train, a table for each split; path is one table for all")
        if self.path is None and self.train is not None and self.split_column is not None:
            raise ValueError(f"split_column={self.split_column} divides the table of path; train is a split (null)")
        if self.separator is not None and self.labels_are != "several":
            raise ValueError(f"separator={self.separator!r} is for labels_are=several (null)")
        if len(self.label_columns) > 1 and (self.labels_are == "classes" or self.separator is not None):
            raise ValueError(
                f"label_columns names {len(self.label_columns)} columns, should name one, with a class or "
                "divided by separator; several columns of 0 and 1 are labels_are=several separator=null"
            )
        if twice := [name for name in self.label_columns if self.label_columns.count(name) > 1]:
            raise ValueError(f"label_columns names {twice[0]!r} twice")
        return self

    def open(self) -> LabelledSets:
        """Return the rows of each split. Class ids follow the sorted names in training, or the order of the columns."""
        if (self.path is None) == (self.train is None):
            raise ConfigError("data: set data.path to one table, or data.train, and perhaps val and test, to one each")
        splits = self._splits()
        classes, labels = self._labels(splits)
        pictures = _pictures(splits, self.image_column, None if self.root is None else located(self.root))
        parts = {split: labelled(pictures[split], labels[split]) for split in splits}
        files = tuple(dict.fromkeys(rows.file.path for rows in splits.values()))
        return LabelledSets(
            name=shown(files[0]),
            train=parts["train"],
            val=parts.get("val"),
            test=parts.get("test"),
            classes=classes,
            remark="",
            test_fraction=self.test_fraction,
            provenance={"source": "table"},
            files=files,
        )

    def _splits(self) -> dict[str, SplitRows]:
        columns = {"data.image_column": [self.image_column], "data.label_columns": self.label_columns}
        if self.path is None:
            given = {"train": self.train, "val": self.val, "test": self.test}
            files = {
                split: read_columns(located(path), columns, delimiter=self.delimiter, key=f"data.{split}")
                for split, path in given.items()
                if path is not None
            }
            return {split: SplitRows(file, range(len(file.rows))) for split, file in files.items()}
        if self.split_column is not None:
            columns["data.split_column"] = [self.split_column]
        file = read_columns(located(self.path), columns, delimiter=self.delimiter, key="data.path")
        if self.split_column is None:
            return {"train": SplitRows(file, range(len(file.rows)))}
        file.require(
            self.split_column,
            range(len(file.rows)),
            lambda cell: isinstance(cell, str) and split_named(cell) is not None,
            what="split",
            wanted="train, val or test",
        )
        named = [split_named(cell) for cell in file.cells[self.split_column]]
        splits = {split: [place for place, name in enumerate(named) if name == split] for split in SPLIT_NAMES}
        if not splits["train"]:
            raise ConfigError(f"data.split_column: no row of {shown(file.path)} says train in {self.split_column!r}")
        return {split: SplitRows(file, places) for split, places in splits.items() if places}

    def _labels(self, splits: Mapping[str, SplitRows]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """Return the names of the classes, labels or targets, and the labels of each split."""
        if self.labels_are == "numbers":
            return self.label_columns, {split: _numbers(rows, self.label_columns) for split, rows in splits.items()}
        first = self.label_columns[0]
        if self.labels_are == "classes":
            for rows in splits.values():
                rows.require(first, lambda cell: isinstance(cell, str) and bool(cell), what="class", wanted="its name")
            named = {split: [(cell,) for cell in rows.cells(first)] for split, rows in splits.items()}
        elif self.separator is not None or any(isinstance(cell, tuple) for cell in splits["train"].cells(first)):
            named = {split: [self._divided(cell) for cell in rows.cells(first)] for split, rows in splits.items()}
        else:
            return self.label_columns, {
                split: _zeros_and_ones(rows, self.label_columns) for split, rows in splits.items()
            }
        classes = _names(splits["train"], named["train"], first)
        places = {name: place for place, name in enumerate(classes)}
        for split, rows in splits.items():
            _require_trained(rows, named[split], classes, first)
        if self.labels_are == "classes":
            return classes, {split: np.array([places[name] for (name,) in cells]) for split, cells in named.items()}
        marks = {split: np.zeros((len(cells), len(classes)), dtype=np.uint8) for split, cells in named.items()}
        for split, cells in named.items():
            for row, names in enumerate(cells):
                marks[split][row, [places[name] for name in names]] = 1
        return classes, marks

    def _divided(self, cell: TableCell) -> tuple[str, ...]:
        parts = cell if isinstance(cell, tuple) else cell.split(self.separator)
        return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _names(train: SplitRows, named: Sequence[tuple[str, ...]], column: str) -> tuple[str, ...]:
    """Return the names in training, sorted; by their values if all are whole numbers. ConfigError for none, and for
    what is no name."""
    found = {name for names in named for name in names}
    if not found:
        raise ConfigError(f"data.label_columns: {shown(train.file.path)} has no label in column {short(column)!r}")
    if strange := [name for name in found if not name.isprintable() or len(name) > _LONGEST_NAME]:
        raise ConfigError(
            f"data.label_columns: {shown(train.file.path)} has {quoted(strange[0])} in column {short(column)!r}, "
            f"should be the name of a class, of at most {_LONGEST_NAME} characters"
        )
    numbered = all(name.isdecimal() and len(name) <= _MOST_DIGITS for name in found)
    return tuple(sorted(found, key=lambda name: (int(name), name) if numbered else name))


def _require_trained(rows: SplitRows, named: Sequence[tuple[str, ...]], classes: Sequence[str], column: str) -> None:
    known = set(classes)
    if wrong := [place for place, names in zip(rows.places, named, strict=True) if not known.issuperset(names)]:
        names = named[list(rows.places).index(wrong[0])]
        strange = next(name for name in names if name not in known)
        raise rows.file.fault(
            wrong, len(named), f"has class {quoted(strange)} in column {short(column)!r}, as no training row has"
        )


def _zeros_and_ones(rows: SplitRows, columns: Sequence[str]) -> np.ndarray:
    hint = "; data.separator divides a column of names" if len(columns) == 1 else ""
    marks = np.empty((len(rows.places), len(columns)), dtype=np.uint8)
    for place, column in enumerate(columns):
        rows.require(
            column,
            lambda cell: isinstance(cell, str) and cell.lower() in _ZERO_OR_ONE,
            what="value",
            wanted=f"0 or 1{hint}",
        )
        marks[:, place] = [_ZERO_OR_ONE[cell.lower()] for cell in rows.cells(column)]
    return marks


def _numbers(rows: SplitRows, columns: Sequence[str]) -> np.ndarray:
    values = np.empty((len(rows.places), len(columns)), dtype=np.float32)
    for place, column in enumerate(columns):
        rows.require(column, lambda cell: _number(cell) is not None, what="number", wanted="a number such as 1.5")
        numbers = np.array([_number(cell) for cell in rows.cells(column)], dtype=np.float64)
        with np.errstate(over="ignore"):
            values[:, place] = numbers
        if wrong := np.flatnonzero(~np.isfinite(values[:, place])).tolist():
            places = [rows.places[row] for row in wrong]
            cell = rows.file.cells[column][places[0]]
            raise rows.file.fault(
                places, len(values), f"has {quoted(cell)} in column {short(column)!r}, should be a finite number"
            )
    return values


def _number(cell: TableCell) -> float | None:
    try:
        return None if isinstance(cell, tuple) or "_" in cell else float(cell)
    except ValueError:
        return None


def _pictures(splits: Mapping[str, SplitRows], column: str, root: Path | None) -> dict[str, Files]:
    """Return the picture files of each split. ConfigError for a path that leads to no file or out of the root, and for
    one picture in two rows."""
    found: dict[str, Files] = {}
    seen: dict[str, tuple[TableFile, int]] = {}
    for split, rows in splits.items():
        file, folder = rows.file, rows.file.path.parent if root is None else root
        if not folder.is_dir():
            raise ConfigError(f"data.root: no folder {shown(folder)}, where the pictures of {file.path.name} should be")
        rows.require(column, lambda cell: isinstance(cell, str) and bool(cell), what="path", wanted="that of a picture")
        paths = [_below(cell, folder) for cell in rows.cells(column)]
        if outside := [place for place, path in zip(rows.places, paths, strict=True) if not is_inside(path)]:
            cell = file.cells[column][outside[0]]
            text = f"names {quoted(cell)}, outside of {shown(folder)}"
            remedy = "\ndata.root is the folder that all paths begin in"
            raise ConfigError(f"{file.fault(outside, len(paths), text)}{remedy}")
        if missing := set(missing_among(paths, folder)):
            lacking = [
                f"{path} (row {file.rows[place]})"
                for place, path in zip(rows.places, paths, strict=True)
                if path in missing
            ]
            raise ConfigError(
                f"{file.key}: {shown(file.path)} names {len(lacking):,} of {len(paths):,} pictures that "
                f"{shown(folder)} lacks: {first_few(lacking)}\ndata.root is the folder that the paths begin in"
            )
        for place, path in zip(rows.places, paths, strict=True):
            other, before = seen.setdefault(os.path.join(folder, path), (file, place))
            if (other, before) != (file, place):
                where = f"row {other.rows[before]}" + ("" if other is file else f" of {shown(other.path)}")
                raise ConfigError(
                    f"{file.key}: {shown(file.path)} row {file.rows[place]} names {quoted(path)} again, after {where}\n"
                    "a picture has one row, in one split; data.separator divides a cell of several labels"
                )
        found[split] = Files(folder, paths)
    return found


def _below(cell: str, folder: Path) -> str:
    """Return a path relative to `folder` in its shortest form, if it lies there."""
    path = PurePosixPath(cell)
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
