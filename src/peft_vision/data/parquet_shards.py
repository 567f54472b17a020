"""This module finds the parquet files that make up a split: one complete set of files and no others.

train-00000-of-00002.parquet  train-00001-of-00002.parquet    numbered, with the total in the name
0000.parquet  0001.parquet                                    numbered, as the hub converts
"""

import filecmp
import re
from collections.abc import Iterable, Sequence
from itertools import combinations, islice
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.walk import files_below

_SHARD = re.compile(r"-(\d+)-of-(\d+)")
_NAMED = 3


def files(folder: Path, split: str, *, key: str) -> list[Path]:
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
        there = ", ".join(dict.fromkeys(_split(path) for path in everything)) or "no parquet file"
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


def _split(path: Path) -> str:
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
