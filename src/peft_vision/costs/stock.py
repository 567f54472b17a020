"""This module finds what the store already holds of the images that planned runs will read.

The key of an entry is computed from weights and pixels. These are read only if the folder has an entry that may match:
one of the same backbone and the same number of images. A split with more images than a plan decodes is matched to an
entry that agrees with it in all but the pixels, if there is only one.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft_vision.backbone.load import load_backbone
from peft_vision.backbone.weights import weights_hash
from peft_vision.core.distributed import World
from peft_vision.costs.expected import RunGroup
from peft_vision.features.entry import inspect
from peft_vision.features.store import KEY_LENGTH, Features, Store
from peft_vision.models.adapter import Recipe
from peft_vision.models.model import Model
from peft_vision.runs.experiment import Experiment, open_store

_DECODED = 5000  # most images of a split that a plan decodes
_OF_A_SPLIT = ("split", "kind")  # fields of an entry's origin that its key does not depend on


def shelved(found: Sequence[RunGroup], world: World) -> dict[str, str]:
    """Return the keys in the names of the entries that are there, by the keys of the demands that they match."""
    origins: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    known: dict[str, str] = {}
    looked: set[str] = set()
    for demand in found:
        features = demand.experiment.features
        if features.folder not in origins:
            origins[features.folder] = list(_origins(demand.experiment))
        here = origins[features.folder]
        wanted = {split: key for split, key in demand.keys.items() if key not in looked}
        looked.update(wanted.values())
        splits = [split for split in wanted if any(_may_be(demand, split, origin) for _, origin in here)]
        if splits and demand.content.parts is not None:
            names = _names(demand, splits, here, world)
            known |= {wanted[split]: name for split, name in names.items()}
    return known


def _origins(experiment: Experiment) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, _ in experiment.features.shelf.held():
        origin = inspect(path, thoroughly=False).origin
        if origin is not None:
            yield path.name[:KEY_LENGTH], origin


def _may_be(demand: RunGroup, split: str, origin: Mapping[str, Any]) -> bool:
    same = {"backbone": demand.experiment.backbone.name, "images": demand.images[split]}
    return all(key in origin and origin[key] == value for key, value in same.items())


def _names(
    demand: RunGroup, splits: Sequence[str], here: Sequence[tuple[str, Mapping[str, Any]]], world: World
) -> dict[str, str]:
    """Return the keys in the names of entries for these splits, by split; splits without a match are left out."""
    experiment = demand.experiment
    model = _model(experiment, demand.content.extent.classes)
    few = {split for split in splits if demand.images[split] <= _DECODED}
    images = experiment.data.load(experiment.backbone.preprocessing(), read=few).parts()
    store = open_store(experiment, model, images, world, quiet=True)
    found = {split: store.key(split)[:KEY_LENGTH] for split in few}
    for split in set(splits) - few:
        names = {name for name, origin in here if _agrees(store, split, origin)}
        if len(names) == 1:
            found[split] = names.pop()
    return found


def _agrees(store: Store, split: str, origin: Mapping[str, Any]) -> bool:
    wanted = store.origin(split)
    return all(origin[key] == wanted[key] for key in wanted if key not in _OF_A_SPLIT)


def _model(experiment: Experiment, num_classes: int) -> Model:
    vit = load_backbone(experiment.backbone, seed=experiment.seed)
    recipe = Recipe(
        method=dict(experiment.config["method"]),
        head=dict(experiment.config["head"]),
        objective=dict(experiment.config["objective"]),
        classes=tuple(map(str, range(num_classes))),
        preprocessing=experiment.data.adjusted(experiment.backbone.preprocessing()),
        backbone={"name": experiment.backbone.name, "hash": weights_hash(vit)},
    )
    return recipe.assemble(vit, seed=experiment.seed)


@dataclass
class Stock:
    """A model of the store's folder. `held`: names of entries that are there or will be. `writable`: whether entries
    can be written; `limit`: most bytes of one entry. The removal of least recently used entries is not modelled."""

    limit: int
    writable: bool
    held: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, features: Features) -> "Stock":
        """Return the stock of the folder as it is now."""
        shelf = features.shelf
        folder = next(path for path in (shelf.folder.absolute(), *shelf.folder.absolute().parents) if path.exists())
        return cls(shelf.limit_bytes, _takes(folder), {path.stem for path, _ in shelf.held()})

    def has_room(self, num_bytes: int) -> bool:
        """Return whether the folder takes one entry of this size."""
        return self.writable and num_bytes <= self.limit

    def add(self, names: Iterable[str]) -> None:
        self.held.update(names)


def _takes(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)
