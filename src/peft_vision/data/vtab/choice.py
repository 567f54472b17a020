"""This module chooses the 800 and 200 images of a VTAB-1k task from a release: the benchmark's own, those of a user's
list, or drawn ones.

The benchmark takes slices, such as train[:800], of the order in which TensorFlow Datasets stores a split. An example's
position follows from md5(split + key), where the builder of each data set defines the key: a file name or a number.
CIFAR-10 then begins with 16399, 1680, 47917, as its published ids do. A user's list has lines such as

    train800 00017.jpg        a file name, with enough of its parent folders to identify it
    val200 images/00018.jpg
    train800 4711             or a position, from 0: train800 in the training part; val200 in the validation part, or in
    test 12                   the training part if there is none; test in the test part
    # a comment

Without a `test` line, the whole test part is used for testing.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import TRAIN, VAL, Release
from peft_vision.data.draws import bits
from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import quoted, read_lines, short

_SHARE = TRAIN / (TRAIN + VAL)  # the training share of a release with fewer than 1,000 images
_SPLITS = ("train800", "val200", "test")
_DIGITS = 18  # at most, of a position
_NAMED = 3  # names shown in a message


def tfds_order(part: Labelled, split: str, keys: Iterable[str | int]) -> Labelled:
    """Return all of `part` in the order in which TensorFlow Datasets stores it; `keys` are those of its images, in the
    order of `part`. ValueError if their numbers differ."""
    salted = hashlib.md5(split.encode(), usedforsecurity=False)
    digests = []
    for key in keys:
        digest = salted.copy()
        digest.update(str(key).encode())
        digests.append(digest.digest())
    if len(digests) != len(part):
        raise ValueError(f"{len(digests)} keys for {len(part)} images")
    return part.subset(torch.tensor(sorted(range(len(part)), key=digests.__getitem__), dtype=torch.int64))


def percent(part: Labelled, start: int, end: int) -> Labelled:
    """Return part[start%:end%]."""
    first, last = (round(share * len(part) / 100) for share in (start, end))
    return part.subset(torch.arange(first, last))


def first_thousand(
    train: Labelled, val: Labelled, test: Labelled, *, classes: Sequence[str], files: Iterable[Path]
) -> Release:
    """Return a release with the benchmark's choice: the first 800 and first 200 images of parts in `stored` order."""
    return Release(
        train=train.subset(torch.arange(min(TRAIN, len(train)))),
        val=val.subset(torch.arange(min(VAL, len(val)))),
        test=test,
        classes=tuple(classes),
        files=tuple(files),
        remark="",
        chosen=True,
    )


def drawn(release: Release, *, seed: int) -> Release:
    """Return a release whose 800 and 200 images are a function of `seed` and the number of images; smaller parts if
    there are fewer images."""
    order = _shuffled(len(release.train), seed=seed)
    enough = release.val is not None or len(order) >= TRAIN + VAL
    count = TRAIN if enough else round(_SHARE * len(order))
    train = release.train.subset(order[:count].sort().values)
    if release.val is None:
        return replace(release, train=train, val=release.train.subset(order[count : count + VAL].sort().values))
    val = release.val.subset(_shuffled(len(release.val), seed=seed)[:VAL].sort().values)
    return replace(release, train=train, val=val)


def _shuffled(count: int, *, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.argsort(bits(torch.arange(count), seed=seed, stream=0), kind="stable"))


def listed_images(file: Path, release: Release) -> Release:
    """Return the images that `file` lists, in its order. ConfigError for images that do not exist, and for an image in
    two splits."""
    listed = _read_list(file)
    pool = release.train if release.val is None else release.train.joined(release.val)
    starts = {"train800": 0, "val200": 0 if release.val is None else len(release.train), "test": len(pool)}
    ends = {"train800": len(release.train), "val200": len(pool), "test": len(pool) + len(release.test)}
    pool = pool.joined(release.test)
    by_name = _by_name(pool, listed)
    places, missing = {}, []
    for split, keys in listed.items():
        found = [_place(key, starts[split], ends[split], by_name, file) for key in keys]
        missing += [short(f"{split} {key}") for key, place in zip(keys, found, strict=True) if place is None]
        places[split] = [place for place in found if place is not None]
    if missing:
        raise ConfigError(
            f"data.index_file: {len(missing)} of the {sum(map(len, listed.values()))} images that {file} lists are not "
            f"in the release: {', '.join(missing[:_NAMED])}{', ...' if missing[_NAMED:] else ''}"
        )
    test = places.get("test") or list(range(starts["test"], ends["test"]))
    advice = "" if "test" in places else "; list the images of test as well"
    _refuse_twice({"train800": places["train800"], "val200": places["val200"], "test": test}, pool, f"{file}{advice}")
    train, val = (pool.subset(torch.tensor(places[split])) for split in ("train800", "val200"))
    return replace(release, train=train, val=val, test=pool.subset(torch.tensor(test)), files=(*release.files, file))


def _read_list(file: Path) -> dict[str, list[str]]:
    """Return the keys listed for each split."""
    lines = read_lines(file, f"lines of {', '.join(_SPLITS)}", key="data.index_file", remedy="")
    listed: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        split, _, key = line.strip().partition(" ")
        if split not in _SPLITS or not key.strip():
            raise ConfigError(
                f"data.index_file: {file} line {number} is {quoted(line)}, should be 'train800 IMAGE', 'val200 "
                "IMAGE' or 'test IMAGE', where IMAGE is a file's name or its place"
            )
        listed[split].append(key.strip())
    for split in ("train800", "val200"):
        if split not in listed:
            raise ConfigError(f"data.index_file: {file} has no line of {split}, such as '{split} 00017.jpg'")
    return listed


def _by_name(pool: Labelled, listed: dict[str, list[str]]) -> dict[str, list[tuple[str, int]]]:
    """Return the pictures whose file name is listed: their full names and their positions in `pool`."""
    wanted = {key.rpartition("/")[2] for keys in listed.values() for key in keys if not key.isdecimal()}
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in wanted}
    for place, index in enumerate(pool.indices.tolist() if wanted else ()):
        name = Path(pool.pictures.name(index)).as_posix()
        last = name.rpartition("/")[2]
        if last in found:
            found[last].append((name, place))
    return found


def _place(key: str, start: int, end: int, by_name: dict[str, list[tuple[str, int]]], file: Path) -> int | None:
    if key.isdecimal():
        return start + int(key) if len(key) <= _DIGITS and start + int(key) < end else None
    names = [(name, place) for name, place in by_name[key.rpartition("/")[2]] if f"/{name}".endswith(f"/{key}")]
    if len(names) > 1:
        raise ConfigError(
            f"data.index_file: {short(key)} of {file} may be {names[0][0]} or {names[1][0]}; write more of its folders"
        )
    return names[0][1] if names else None


def _refuse_twice(places: dict[str, list[int]], pool: Labelled, by: str) -> None:
    split_of: dict[int, str] = {}
    for split, indices in places.items():
        for place in indices:
            if place in split_of:
                name = pool.pictures.name(int(pool.indices[place]))
                raise ConfigError(f"data.index_file: {name} is of {split_of[place]} and of {split} by {by}")
            split_of[place] = split
