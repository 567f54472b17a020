"""This module matches the classes of an out-of-distribution set to those of a run: by name, and never by index."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from peft_vision.core.config import ConfigError, nearest
from peft_vision.data.pictures import Labelled
from peft_vision.ood.base import OOD, Shift

_NAMED = 3  # classes that a message names


@dataclass(frozen=True)
class Matched:
    """A shift matched to a run. `labelled`: the pictures, with the run's class ids. `missing`: classes of the run that
    no picture shows; `dropped`: classes of the set that the run does not know, whose pictures are left out;
    `predictable`, (num_classes,) bool: the classes that may be predicted."""

    labelled: Labelled
    missing: tuple[str, ...]
    dropped: tuple[str, ...]
    predictable: Tensor

    def __str__(self) -> str:
        parts = [f"{len(self.labelled):,} images"]
        if self.missing:
            masked = "" if self.predictable.all() else ", never predicted"
            parts.append(f"without {len(self.missing)} of the classes ({listed(self.missing)}{masked})")
        if self.dropped:
            parts.append(f"left out: {listed(self.dropped)}, unknown to the run")
        return "; ".join(parts)


def matched(shift: Shift, ood: OOD, classes: tuple[str, ...], *, where: str) -> Matched:
    """Match a shift to `classes`, those of the run. ConfigError, which lists the classes, if they differ and `ood` does
    not allow it, or if none is common; `where` names the set in the message."""
    names = [ood.rename.get(name, name) for name in shift.classes]
    if len(set(names)) < len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise ConfigError(f"{where}.rename: two classes of the set become {listed(twice)}")
    known = {name: index for index, name in enumerate(classes)}
    ids = torch.tensor([known.get(name, -1) for name in names], dtype=torch.int64)
    labels = ids[shift.labelled.labels]
    kept = (labels >= 0).nonzero().squeeze(1)
    occurs = torch.bincount(shift.labelled.labels, minlength=len(names)) > 0
    dropped = tuple(name for name, class_id, there in zip(names, ids, occurs, strict=True) if there and class_id < 0)
    if not len(kept):
        raise ConfigError(
            f"{where}: none of its classes is one of the run's: {listed(names)}; the run has {listed(classes)}"
            f"{nearest(names[0], list(classes)) if names else ''}"
        )
    if dropped and ood.extra == "error":
        raise ConfigError(
            f"{where}: {len(dropped)} of its classes are unknown to the run: {listed(dropped)}\n"
            f"'+{where}.rename={{{dropped[0]}: a class of the run}}' says what they are, "
            f"{where}.extra=drop leaves their images out"
        )
    there = torch.bincount(labels[kept], minlength=len(classes)) > 0
    missing = tuple(name for name, is_there in zip(classes, there.tolist(), strict=True) if not is_there)
    if missing and ood.missing == "error":
        raise ConfigError(
            f"{where}: it has no image of {len(missing)} of the run's classes: {listed(missing)}\n"
            f"{where}.missing=allow scores it all the same, {where}.missing=mask without predicting these"
        )
    subset = shift.labelled.subset(kept)
    return Matched(
        Labelled(subset.pictures, subset.indices, labels[kept]),
        missing,
        dropped,
        there if ood.missing == "mask" else torch.ones_like(there),
    )


def refuse_seen(shift: Labelled, seen: Iterable[Labelled], *, where: str) -> None:
    """Raise ConfigError if pictures of a shift are among those that a run trains on or chooses by."""
    index_of = dict(zip(shift.pictures.marks(shift.indices), shift.indices.tolist(), strict=True))
    for part in seen:
        if common := index_of.keys() & set(part.pictures.marks(part.indices)):
            first = min(shift.pictures.name(index_of[mark]) for mark in common)
            raise ConfigError(
                f"{where}: {len(common)} of its {len(index_of)} pictures are among the training data, such as {first}; "
                "what a model was trained on says nothing of a shift"
            )


def listed(names: Iterable[str]) -> str:
    """Return the first few names, quoted."""
    names = list(names)
    return ", ".join(map(repr, names[:_NAMED])) + (", ..." if names[_NAMED:] else "")
