"""This module computes the order in which TensorFlow Datasets stores a split, which defines VTAB-1k's slices, such as
train[:800].

An example's position follows from md5(split + key), where the builder of each data set defines the key: a file name
or a number. CIFAR-10 then begins with 16399, 1680, 47917, as its published ids do.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from peft_vision.data.pictures import Labelled
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import TRAIN, VAL


def stored(part: Labelled, split: str, keys: Iterable[str | int]) -> Labelled:
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


def chosen(train: Labelled, val: Labelled, test: Labelled, *, classes: Sequence[str], files: Iterable[Path]) -> Release:
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
