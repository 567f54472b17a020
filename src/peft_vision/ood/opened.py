"""This module builds, checks and opens a run's out-of-distribution sets and matches them to its classes.

A set's own messages begin with its key (`path: ...`); here they get the name of the set in front.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft_vision.core.config import ConfigError, build, nearest
from peft_vision.data.base import SPLITS, Data
from peft_vision.data.pictures import Labelled
from peft_vision.ood.base import OOD
from peft_vision.ood.match import Matched, listed, matched, refuse_seen

RESERVED = ("mean", "worst", "pooled")
"""Names in the metrics that no set and no shift may have."""


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
