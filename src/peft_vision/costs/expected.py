"""This module describes the runs of a sweep before they are started.

`shelved` finds what the store already holds of the images that planned runs will read.

The key of an entry is computed from weights and pixels. These are read only if the folder has an entry that may match:
one of the same backbone and the same number of images. A split with more images than a plan decodes is matched to an
entry that agrees with it in all but the pixels, if there is only one.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peft_vision.backbone.load import load_backbone
from peft_vision.backbone.observation import Kind
from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.core.identity import digest, hashed, source_of
from peft_vision.data.pictures import Labelled
from peft_vision.data.splits import Extent
from peft_vision.features.entry import inspect
from peft_vision.features.store import KEY_LENGTH, Features, Store
from peft_vision.models.adapter import Recipe
from peft_vision.models.model import Model
from peft_vision.ood.match import check_sets
from peft_vision.optimizer.base import Stepper
from peft_vision.runs.experiment import Experiment, open_store


@dataclass(frozen=True)
class Expected:
    """Some runs that a plan expects: `times` runs like `experiment`, a fraction while it is unknown which of several
    kinds a run will be. `ended`: whether they are over already."""

    experiment: Experiment
    times: float = 1.0
    ended: bool = False


def evenly(experiments: Sequence[Experiment], times: float) -> list[Expected]:
    """Return `times` runs in all, spread evenly over the experiments."""
    return [Expected(experiment, times / len(experiments)) for experiment in experiments]


def together(runs: Sequence[Expected]) -> list[Expected]:
    """Return the runs as a sweep starts them: if their methods read different kinds of observation, the first run that
    reads an image stores all of these kinds."""
    left = [run.experiment for run in runs if not run.ended]
    reads = {experiment.reads for experiment in left}
    if len(reads) < 2 or any(experiment.features.also for experiment in left):
        return list(runs)
    also = tuple(sorted(frozenset.union(*reads)))
    return [run if run.ended else replace(run, experiment=_told(run.experiment, also)) for run in runs]


def _told(experiment: Experiment, also: tuple[Kind, ...]) -> Experiment:
    config = {**experiment.config, "features": {**experiment.config["features"], "also": list(also)}}
    return replace(experiment, features=replace(experiment.features, also=also), config=config)


_log = logging.getLogger("peft_vision")
_DIVIDES = ("stage", "augment")  # keys of data that do not change which pictures there are
_ROLES = {
    "all": {"train": "train", "val": "val", "test": "test"},
    "tune": {"train": "train", "val": "val"},
    "final": {"train": "train and val", "test": "test"},
    "peek": {"train": "train and val", "val": "test", "test": "test"},
}


@dataclass(frozen=True)
class Content:
    """The images that one config of data reads. `parts`: the pictures by split, None if they are not here; `marks`: for
    each split a digest that is equal for equal pictures."""

    extent: Extent
    parts: Mapping[str, Labelled] | None
    marks: Mapping[str, str]

    def keys(self, experiment: Experiment) -> dict[str, str]:
        """Return a key for the observations of each split, which stands for the store's own key and is made of the same
        inputs without reading weights or pixels."""
        data, backbone = experiment.data, experiment.backbone
        views = experiment.features.views if data.augment != "none" else 0
        common = [
            hashed(backbone),
            [experiment.features.dtype, experiment.trainer.precision, data.resize, data.crop],
            None if backbone.pretrained or backbone.checkpoint else experiment.seed,  # which decides random weights
        ]
        view_facts = {
            split: [views, source_of(data.augment)] if views and split == "train" else [] for split in self.marks
        }
        return {split: digest([common, view_facts[split], mark]) for split, mark in self.marks.items()}


def contents(experiment: Experiment) -> Content:
    """Return the images that an experiment reads. ConfigError if they are not here and their number is not known."""
    data = experiment.data
    extent = data.extent()
    try:
        parts = data.parts()
    except ConfigError:  # then the plan goes by the known numbers of images
        described = {key: value for key, value in hashed(data).items() if key not in _DIVIDES}
        roles = _ROLES[data.stage]
        return Content(extent, None, {split: digest([described, roles[split]]) for split in extent.images})
    return Content(extent, parts, {split: _seen(part) for split, part in parts.items()})


def _seen(part: Labelled) -> str:
    """Return a digest of the pictures, whatever their labels."""
    sha = hashlib.sha256()
    for content in part.pictures.identify(part.indices):
        sha.update(content)
    return sha.hexdigest()


_FREE = ("lr", "weight_decay", "momentum", "betas")  # values of an optimizer that do not change its speed


@dataclass
class RunGroup:
    """The runs of one kind on the same images. `experiment`: one of them; `keys`: keys of the stored observations, by
    split and shift; `times`: how many runs are left, a fraction while it is unknown which of several kinds they will
    be; `shifts`: the numbers of images out of distribution, by shift; `alphas`: how many interpolated models are
    scored."""

    experiment: Experiment
    content: Content
    keys: Mapping[str, str]
    times: float = 0.0
    shifts: Mapping[str, int] = field(default_factory=dict)
    alphas: int = 0

    @property
    def images(self) -> Mapping[str, int]:
        """The numbers of images, by split."""
        return self.content.extent.images


def demands(runs: Iterable[Expected]) -> list[RunGroup]:
    """Return the demands of the runs that have not ended, in their order. ConfigError if images are not here and their
    number is not known."""
    opened: dict[str, Content] = {}
    shifted: dict[str, dict[str, Labelled]] = {}
    found: dict[str, RunGroup] = {}
    for run in runs:
        if run.ended:
            continue
        data = _key(run.experiment.config["data"])
        if data not in opened:
            opened[data] = contents(run.experiment)
        content, is_scored_later = opened[data], run.experiment.data.stage != "tune"
        sets = _key(run.experiment.config["ood"] if is_scored_later else {})
        if sets not in shifted:
            shifted[sets] = _shifts(run.experiment) if is_scored_later else {}
        shifts = shifted[sets]
        seen = replace(content, marks={**content.marks, **{name: part.digest() for name, part in shifts.items()}})
        keys, alphas = seen.keys(run.experiment), len(run.experiment.interpolation.alphas) * is_scored_later
        name = _key({"kind": kind(run.experiment), "data": data, "keys": keys, "alphas": alphas})
        if name not in found:
            counts = {shift: len(part) for shift, part in shifts.items()}
            found[name] = RunGroup(run.experiment, content, keys, shifts=counts, alphas=alphas)
        found[name].times += run.times
    return list(found.values())


def _shifts(experiment: Experiment) -> dict[str, Labelled]:
    """Return the pictures of each shift, those of classes that the run does not know included. A set that is not here
    is said to be left out of the plan, which may be made before anything is fetched."""
    found: dict[str, Labelled] = {}
    for name, ood in experiment.ood.items():
        try:
            check_sets({name: ood})
            shifts = ood.open()
        except ConfigError as error:
            _log.warning("%-9s scoring on %s is not counted: %s", "plan", name, str(error).partition("\n")[0])
            continue
        found |= {f"ood/{name}/{shift}": one.labelled for shift, one in shifts.items()}
    return found


def kind(experiment: Experiment) -> str:
    """Return a key that is equal if a step takes equally long, given equal numbers of images and classes."""
    config = experiment.config
    groups: dict[str, Any] = {name: config[name] for name in ("backbone", "method", "head", "features")}
    groups["trainer"] = {key: value for key, value in config["trainer"].items() if key != "epochs"}
    for name, optimizer in experiment.fitting.items():
        free = _FREE if isinstance(optimizer, Stepper) else ()
        groups[name] = {key: value for key, value in config[name].items() if key not in free}
    return _key(groups)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


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
        wanted = {split: demand.keys[split] for split in demand.images if demand.keys[split] not in looked}
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
        backbone=experiment.backbone.record(vit),
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
