"""Splits in a folder of parquet files as Hugging Face lays them out, and their labels.

folder/data/train-00000-of-00002.parquet  folder/data/test-00000-of-00001.parquet     a split is the beginning of a name
folder/train/0000.parquet                                                             or a folder
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peft_vision.config import ConfigError, component, nearest
from peft_vision.data.hub_folder import fetch
from peft_vision.data.parquet_rows import File, Rows, pyarrow
from peft_vision.data.pictures import Labelled, labelled

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
_NAMED = 3


@component
class Stored:
    """`hub`: a data set's name there; None: the files are in a folder. `subset`: a folder below. The others are what
    the files call the image, the label and each split; None: there is no such split."""

    hub: str | None
    subset: str | None
    image: str
    label: str
    train: str
    val: str | None
    test: str | None


@dataclass(frozen=True)
class Opened:
    """`classes`: by their labels. `files`: all that were opened."""

    train: Labelled
    val: Labelled | None
    test: Labelled | None
    classes: tuple[str, ...]
    files: tuple[Path, ...]


def read(stored: Stored, folder: Path | None, *, prefix: str) -> Opened:
    """In `folder`, unless from the hub. `prefix` stands before the keys that are named to the user, such as "data."."""
    names = {"train": stored.train, "val": stored.val, "test": stored.test}
    if stored.hub is not None:
        folder = fetch(stored.hub, stored.subset, enough=lambda folder: _whole(folder, names.values()))
    elif stored.subset is not None:
        folder /= stored.subset
    splits = {
        key: _Split(folder, files(folder, name, key=f"{prefix}{key}"), stored, prefix)
        for key, name in names.items()
        if name is not None
    }
    classes = _classes(splits, f"{prefix}label")
    parts = {key: split.labelled(classes) for key, split in splits.items()}
    return Opened(
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        classes=classes,
        files=tuple(path for split in splits.values() for path in split.paths),
    )


def _whole(folder: Path, splits: Iterable[str | None]) -> bool:
    """Whether every file of the splits is there."""
    try:
        return all(files(folder, split, key="") for split in splits if split is not None)
    except ConfigError:
        return False


def files(folder: Path, split: str, *, key: str) -> list[Path]:
    """Of a split, sorted. ConfigError where there is none, or where some of those that were written together are not
    there; `key` is what chose the split."""
    pattern = re.compile(rf"{re.escape(split)}(?![A-Za-z0-9_])")
    everything = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
    found = [
        path
        for path in everything
        if any(pattern.match(part) for part in (path.name, *path.parent.relative_to(folder).parts))
    ]
    if not found:
        there = ", ".join(dict.fromkeys(_split(path) for path in everything)) or "no parquet file"
        raise ConfigError(f"{key}: no parquet file of split {split!r} in {folder}, which has {there}")
    if len({path.parent for path in found}) > 1:
        several = ", ".join(sorted({path.parent.relative_to(folder).as_posix() for path in found})[:_NAMED])
        raise ConfigError(
            f"{key}: split {split!r} is in several folders of {folder}: {several}; subset chooses one of them"
        )
    shards = {match for path in found if (match := _SHARD.search(path.name))}
    of = {int(match[2]) for match in shards}
    if of and (len(of) > 1 or len(found) != max(of)):
        raise ConfigError(
            f"{key}: {len(found)} of {max(of)} files of split {split!r} are in {found[0].parent}; fetch the rest"
        )
    return found


def _split(path: Path) -> str:
    """What a file seems to be of."""
    return _SHARD.split(path.stem)[0] if not path.stem.isdecimal() else path.parent.name


class _Split:
    """The files of a split; its labels are read, its pictures not."""

    def __init__(self, folder: Path, paths: Sequence[Path], stored: Stored, prefix: str) -> None:
        self.paths = tuple(paths)
        self.names: Sequence[str] | None = None
        self.values: list[Any] = []
        opened = []
        for path in paths:
            with _open(path) as parquet:
                schema, metadata = parquet.schema_arrow, parquet.metadata
                for key in ("image", "label"):
                    _require(getattr(stored, key), schema.names, path, f"{prefix}{key}")
                self.names = _class_names(schema.metadata, stored.label)
                self.values += parquet.read(columns=[stored.label]).column(stored.label).to_pylist()
            rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            opened.append(File(folder, path.relative_to(folder).as_posix(), path.stat().st_size, rows))
        self.pictures = Rows(opened, stored.image)
        self._where = f"{prefix}label"
        if wrong := [row for row, value in enumerate(self.values) if not _is_label(value)]:
            raise ConfigError(
                f"{prefix}label: {self.pictures.name(wrong[0])} has {stored.label} {self.values[wrong[0]]!r}, as have "
                f"{len(wrong):,} of {len(self.values):,} rows; should be a class's number or name"
            )

    def labelled(self, classes: tuple[str, ...]) -> Labelled:
        if self.values and isinstance(self.values[0], int):
            unknown = [value for value in self.values if value >= len(classes)]
            labels = self.values
        else:
            places = {name: place for place, name in enumerate(classes)}
            unknown = [value for value in self.values if value not in places]
            labels = [places[value] for value in self.values if value in places]
        if unknown:
            raise ConfigError(f"{self._where}: class {unknown[0]!r} of {self.paths[0]} is not among the {len(classes)}")
        return labelled(self.pictures, torch.tensor(labels, dtype=torch.int64))


def _open(path: Path) -> Any:
    try:
        return pyarrow().ParquetFile(path, memory_map=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"data: cannot read {path} ({str(error).splitlines()[0]}); fetch it again") from error


def _require(column: str, there: Sequence[str], path: Path, key: str) -> None:
    if column not in there:
        raise ConfigError(
            f"{key}: no column {column!r} in {path}, which has {', '.join(there)}{nearest(column, list(there))}"
        )


def _is_label(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and value >= 0)


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> list[str] | None:
    """As Hugging Face notes them in a file, if it does."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[column]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def _classes(splits: Mapping[str, _Split], key: str) -> tuple[str, ...]:
    """As noted in the files; else the sorted names in training, or the numbers up to the highest of all splits."""
    train = splits["train"]
    if train.names is not None:
        return tuple(train.names)
    values = [value for split in splits.values() for value in split.values]
    if not values or len({type(value) for value in values}) > 1:
        raise ConfigError(f"{key}: the rows of {train.paths[0].parent} have no label, or names beside numbers")
    if isinstance(values[0], str):
        return tuple(sorted(set(train.values)))
    return tuple(str(label) for label in range(max(values) + 1))
