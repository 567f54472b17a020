"""This module reads any image data set as Hugging Face stores it: parquet files in a folder or on the hub.

folder/data/train-00000-of-00002.parquet  folder/data/test-00000-of-00001.parquet     a split is the beginning of a name
folder/train/0000.parquet                                                             or a folder

A split is one complete set of files and no others: numbered with the total in the name or, as the hub converts them,
without it.
"""

import filecmp
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.data.base import Data
from peft_vision.data.download import fetch_from_hub, require_cached
from peft_vision.data.folders import files_below
from peft_vision.data.parquet_rows import ParquetLabels, ParquetRows, classes_of, read_labels
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import located
from peft_vision.data.splits import LabelledSets

_SHARD = re.compile(r"-(\d+)-of-(\d+)")
_NAMED = 3


def split_files(folder: Path, split: str, *, key: str) -> list[Path]:
    """Return the files of a split, sorted. ConfigError if there are none, if a set is incomplete or has a file twice,
    or if there are several sets; `key` is the option that chose the split."""
    pattern = re.compile(rf"{re.escape(split)}(?![A-Za-z0-9_])")
    below = files_below(folder, folder, (".parquet",), key=key) if folder.is_dir() else []
    everything = [folder / path for path in below]
    found = [
        path
        for path in everything
        if any(pattern.match(part) for part in (path.name, *path.parent.relative_to(folder).parts))
    ]
    if not found:
        there = ", ".join(dict.fromkeys(_split_of(path) for path in everything)) or "no parquet file"
        raise ConfigError(f"{key}: no parquet file of split {split!r} in {folder}, which has {there}")
    if len({path.parent for path in found}) > 1:
        several = ", ".join(sorted({path.parent.relative_to(folder).as_posix() for path in found})[:_NAMED])
        raise ConfigError(
            f"{key}: split {split!r} is in several folders of {folder}: {several}; subset chooses one of them"
        )
    _require_one_set(found, f"{key}: split {split!r} in {found[0].parent}")
    _require_all(found, split, key)
    _refuse_copies(found, key)
    return found


def _split_of(path: Path) -> str:
    """Return the split that a file seems to belong to: by its name, or by its folder if the name is a number."""
    return _SHARD.split(path.stem)[0] if not path.stem.isdecimal() else path.parent.name


def _require_one_set(found: Sequence[Path], where: str) -> None:
    """Raise ConfigError for files of two sets: written at different times, in different numbers of files, or copied."""
    sets: dict[tuple[str, str] | None, Path] = {}
    numbers: dict[int, Path] = {}
    for path in found:
        shard = _SHARD.search(path.name)
        sets.setdefault((path.name[: shard.start()], shard[2]) if shard else None, path)
    if len(sets) > 1 and any(sets):
        raise ConfigError(f"{where} is of {len(sets)} sets: {_first(sets.values())}; keep the files of one")
    for path in found if any(sets) else ():
        if (other := numbers.setdefault(int(_SHARD.search(path.name)[1]), path)) != path:
            raise ConfigError(f"{where} has a file twice: {other.name}, {path.name}; keep one")


def _require_all(found: Sequence[Path], split: str, key: str) -> None:
    """Raise ConfigError if a file of a numbered set is missing."""
    shard = _SHARD.search(found[0].name)
    if shard:
        numbers, count = {int(_SHARD.search(path.name)[1]) for path in found}, int(shard[2])
        if beyond := [path for path in found if int(_SHARD.search(path.name)[1]) >= count]:
            raise ConfigError(f"{key}: {beyond[0]} has a number that is not below {count}; fetch the files again")

        def name(number: int) -> str:
            start, end = shard.span(1)
            return f"{shard.string[:start]}{number:0{end - start}d}{shard.string[end:]}"

    else:
        names = {path.stem for path in found}
        if not all(stem.isdecimal() and len(stem) == 4 for stem in names) or "0000" not in names:
            return
        numbers = {int(stem) for stem in names}
        count = max(numbers) + 1

        def name(number: int) -> str:
            return f"{number:04d}.parquet"

    if len(numbers) != count:
        missing = (name(number) for number in range(count) if number not in numbers)
        raise ConfigError(
            f"{key}: {len(numbers):,} of {count:,} files of split {split!r} are in {found[0].parent}; fetch the rest, "
            f"such as {next(missing)}"
        )


def _refuse_copies(found: Sequence[Path], key: str) -> None:
    """Raise ConfigError for two files with the same bytes, because every picture would count twice."""
    by_size: dict[int, list[Path]] = {}
    for path in found:
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    for paths in by_size.values():
        for one, other in combinations(paths, 2):
            if filecmp.cmp(one, other, shallow=False):
                raise ConfigError(f"{key}: {other} is a copy of {one.name}; keep one")


def _first(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in islice(paths, _NAMED))


@component
class Stored:
    """A data set stored as parquet files. `hub`: its name on the hub; None: the files are in a folder. `subset`: a
    folder below. The others are the names of the image and label columns and of the splits; None: there is no such
    split."""

    hub: str | None
    subset: str | None
    image: str
    label: str
    train: str
    val: str | None
    test: str | None


@dataclass(frozen=True)
class Opened:
    """The splits of opened files: `classes` are in label order, and `files` are all files that were opened."""

    train: Labelled
    val: Labelled | None
    test: Labelled | None
    classes: tuple[str, ...]
    files: tuple[Path, ...]


def read_splits(stored: Stored, folder: Path | None, *, prefix: str) -> Opened:
    """Read the splits in `folder`, or from the hub if `stored.hub` is set. `prefix` precedes config keys in messages,
    such as "data."."""
    names = _split_names(stored)
    if stored.hub is not None:
        folder = fetch_from_hub(stored.hub, stored.subset, enough=lambda folder: _whole(folder, names.values()))
    elif stored.subset is not None:
        folder /= stored.subset
    splits = {
        key: [
            read_labels(folder, path, image=stored.image, label=stored.label, prefix=prefix)
            for path in split_files(folder, name, key=f"{prefix}{key}")
        ]
        for key, name in names.items()
        if name is not None
    }
    classes = classes_of(splits, f"{prefix}label")
    parts = {key: _labelled(file_labels, classes, stored, f"{prefix}label") for key, file_labels in splits.items()}
    return Opened(
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        classes=classes,
        files=tuple(labels.path for file_labels in splits.values() for labels in file_labels),
    )


def require_on_disk(stored: Stored) -> None:
    """Raise ConfigError where `read_splits` would have to download files."""
    if stored.hub is not None:
        names = _split_names(stored)
        require_cached(stored.hub, stored.subset, enough=lambda folder: _whole(folder, names.values()))


def _split_names(stored: Stored) -> dict[str, str | None]:
    return {"train": stored.train, "val": stored.val, "test": stored.test}


def _labelled(files: Sequence[ParquetLabels], classes: tuple[str, ...], stored: Stored, key: str) -> Labelled:
    places = [place for labels in files for place in labels.places(classes, key)]
    return labelled(ParquetRows([labels.file for labels in files], stored.image), places)


def _whole(folder: Path, splits: Iterable[str | None]) -> bool:
    """Return whether every given split (None is skipped) has all its files."""
    try:
        return all(split_files(folder, split, key="") for split in splits if split is not None)
    except ConfigError:
        return False


@component
class Parquet(Stored, Data):
    """A data set of parquet files, in exactly one of `path` and `hub`. `test_fraction` is for one without a test
    split."""

    path: Annotated[str | None, FILE]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]

    def open(self) -> LabelledSets:
        """Return the splits; class ids follow the data set's own numbering, or the sorted names if labels are names."""
        if (self.path is None) == (self.hub is None):
            raise ConfigError("data: set data.path to a folder of parquet files, or data.hub to a data set's name")
        folder = None if self.path is None else self._folder(self.path)
        opened = read_splits(self, folder, prefix="data.")
        return LabelledSets(
            name=self.hub or str(folder),
            train=opened.train,
            val=opened.val,
            test=opened.test,
            classes=opened.classes,
            remark="",
            test_fraction=self.test_fraction,
            provenance={"source": f"{self.hub} on the Hugging Face hub" if self.hub else "parquet files"},
        )

    def without_download(self) -> Self:
        """Return this data set if no file of it has to be downloaded, else raise ConfigError."""
        require_on_disk(self)
        return self

    def _folder(self, path: str) -> Path:
        folder = located(path)
        if not folder.is_dir():
            raise ConfigError(f"data.path: no folder {folder}, of files such as train-00000-of-00001.parquet")
        return folder
