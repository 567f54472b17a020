"""This module builds, checks and opens a run's out-of-distribution sets, and matches their classes to those of the run
by name, never by index.

A set's own messages begin with its key (`path: ...`); here they get the name of the set in front.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peft_vision.core.config import ConfigError, build, nearest
from peft_vision.data.base import SPLITS, Data
from peft_vision.data.pictures import Labelled
from peft_vision.ood.base import OOD, Shift

_NAMED = 3  # classes that a message names
_EVERY_CLASS = "the run says something of every class"
RESERVED = ("mean", "worst", "pooled")
"""Names in the metrics that no set and no shift may have."""


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
    names = tuple(ood.rename.get(name, name) for name in shift.classes)
    if len(set(names)) < len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise ConfigError(f"{where}.rename: two classes of the set become {listed(twice)}")
    if shift.labelled.labels_are != "classes":
        return _matched_whole(shift.labelled, names, ood, classes, where=where)
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


def _matched_whole(
    labelled: Labelled, names: tuple[str, ...], ood: OOD, classes: tuple[str, ...], *, where: str
) -> Matched:
    """Match pictures that have something to say of every class: several labels, numbers or masks. `names`: the set's
    classes as the run calls them. Labels that the set lacks are absent from its pictures, and those that the run does
    not know can be left out; the targets of numbers and the classes of masks have to be the run's own."""
    if ood.missing == "mask":
        raise ConfigError(f"{where}.missing: got 'mask', should be allow or error: {_EVERY_CLASS}")
    kind = labelled.labels_are
    if kind != "several" and names != classes:
        raise ConfigError(f"{where}: its classes are {listed(names)}, should be the run's: {listed(classes)}")
    dropped = tuple(name for name in names if name not in classes)
    if len(dropped) == len(names) or (dropped and ood.extra == "error"):
        raise ConfigError(
            f"{where}: {len(dropped)} of its labels are unknown to the run: {listed(dropped)}; "
            f"the run has {listed(classes)}\n{where}.extra=drop leaves labels out, where others are the run's"
        )
    missing = ()
    if kind == "several":
        places = torch.tensor([classes.index(name) for name in names if name in classes])
        known = torch.tensor([name in classes for name in names])
        labels = torch.zeros(len(labelled), len(classes), dtype=labelled.labels.dtype)
        labels[:, places] = labelled.labels[:, known]
        if not labels.any():
            raise ConfigError(
                f"{where}: none of its {len(labels)} pictures shows a label of the run, {listed(classes)}"
            )
        labelled = Labelled(labelled.pictures, labelled.indices, labels)
        missing = tuple(name for name in classes if name not in names)
    if missing and ood.missing == "error":
        raise ConfigError(f"{where}: it has no label of {len(missing)} of the run's: {listed(missing)}")
    return Matched(labelled, missing, dropped, torch.ones(len(classes), dtype=torch.bool))


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


def build_sets(nodes: Any) -> dict[str, OOD]:
    """Build the sets by name from their config nodes; ConfigError lists the faults of all of them."""
    if not isinstance(nodes, Mapping):
        raise ConfigError(f"ood: got {nodes!r}, should be sets by name; ood=stl10 or ood=[stl10,fmow] chooses")
    sets, faults = {}, []
    for name, node in nodes.items():
        try:
            _refuse_name(name, f"ood.{name}")
            if name in SPLITS:
                raise ConfigError(f"ood.{name}: {name!r} is a split of the training data, and no name of a set")
            if not isinstance(node, Mapping):
                raise ConfigError(f"ood.{name}: got {node!r}, should be the values of a set")
            sets[name] = build(node, OOD, f"ood.{name}")
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return sets


def check_sets(sets: Mapping[str, OOD]) -> None:
    """Raise ConfigError for the first set whose check fails, such as one that is not there."""
    for name, ood in sets.items():
        with _named(name):
            ood.check()


def opened(ood: OOD, name: str, *, classes: tuple[str, ...], seen: Iterable[Labelled]) -> dict[str, Matched]:
    """Return the shifts of one set, each under `set` or `set/shift`. `seen`: the pictures that the run trains on or
    chooses by, which no shift may hold. ConfigError if it does, or if set and run do not match."""
    with _named(name):
        shifts = ood.open()
    if not shifts:
        raise ConfigError(f"ood.{name}: no folder and no other shift is named")
    set_classes = {class_name for content in shifts.values() for class_name in content.classes}
    if strangers := sorted(ood.rename.keys() - set_classes):
        raise ConfigError(
            f"ood.{name}.rename: the set has no class {listed(strangers)}{nearest(strangers[0], list(set_classes))}"
        )
    found = {}
    for shift, content in shifts.items():
        if shift:
            _refuse_name(shift, f"ood.{name}")
        if not len(content.labelled):
            raise ConfigError(f"ood.{name}: no image{f' of {shift}' if shift else ''}")
        found[f"{name}/{shift}" if shift else name] = matched(content, ood, classes, where=f"ood.{name}")
        refuse_seen(content.labelled, seen, where=f"ood.{name}")
    return found


def foresee(shifts: Mapping[str, Matched], name: str, data: Data) -> None:
    """Raise ConfigError if pictures of these shifts cannot be scored, where that shows without decoding any."""
    for shift, content in shifts.items():
        if not data.foreseen(content.labelled, label=f"ood {shift}"):
            raise ConfigError(f"ood.{name}: no picture of {shift} can be read")


def _refuse_name(name: str, where: str) -> None:
    if name in RESERVED or "/" in name:
        raise ConfigError(f"{where}: {name!r} is no name of a set or of a shift: {', '.join(RESERVED)} and / are taken")


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"ood.{name}.{error}") from error
