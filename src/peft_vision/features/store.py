"""This module is the feature store: observations that a frozen encoder makes of each image, computed once and read by
every run that needs the same.

A key identifies all that an observation depends on: the backbone's weights and shape, preprocessing, precision, and the
bytes of the images in their order. Entries are in a folder (see `shelf.py`); those that fit in memory are kept there
too, others are memory-mapped, and those that fit nowhere are computed again each time.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from peft_vision.backbone.observation import GRIDS, Kind
from peft_vision.core.config import NOT_HASHED, ConfigError, HashDefault, component
from peft_vision.core.device_memory import DeviceGiB
from peft_vision.core.identity import source_of
from peft_vision.data.images import Images, Source
from peft_vision.features.entry import FORMAT, CacheEntry
from peft_vision.features.fill import FeatureWriter, ObservationPass, fill
from peft_vision.features.shelf import CacheDir, size
from peft_vision.models.model import Model
from peft_vision.models.observations import Observed, Views, labels_of_views

_log = logging.getLogger("peft_vision")
_GIB = 2**30
KEY_LENGTH = 16  # hex digits of the key in a file's name
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@component
class Features:
    """The settings of the store. `use`: with auto what can be stored is stored; with always it is an error where the
    training images cannot be; with never everything is computed each time. `dtype`: the type that observations are
    rounded to, stored or not; `grid_dtype`: that of grids. `views`: number of augmented views of each training image.
    `device_memory_gib`: how much of a device's memory they may take where they are read in every epoch. `also`: kinds
    that other runs of a sweep will read, so that one pass serves them all."""

    use: Annotated[Literal["auto", "always", "never"], NOT_HASHED]
    dtype: Literal["fp32", "bf16", "fp16"]
    grid_dtype: Annotated[Literal["fp32", "bf16", "fp16"], HashDefault("fp16")]
    views: NonNegativeInt
    folder: Annotated[str, NOT_HASHED]
    memory_gib: Annotated[float, Field(ge=0), NOT_HASHED]
    device_memory_gib: Annotated[DeviceGiB, NOT_HASHED, HashDefault("auto")]
    disk_gib: Annotated[float, Field(ge=0), NOT_HASHED]
    also: Annotated[tuple[Literal["features", "contexts", "intermediates", "grid", "grids"], ...], NOT_HASHED]

    def check(self, augment: str) -> None:
        """Raise ConfigError for views of images that are not augmented."""
        if self.views and augment == "none":
            raise ConfigError(f"features.views: got {self.views}, but with data.augment=none all views are the same")

    @property
    def shelf(self) -> CacheDir:
        """Return the shelf of the folder. Where the home folder is unknown, it is one that can keep nothing."""
        folder = Path(self.folder)
        with suppress(RuntimeError):  # raised for a user without a home folder
            folder = folder.expanduser()
        return CacheDir(folder, limit_bytes=int(self.disk_gib * _GIB))


def entry_name(kind: Kind, model: Model) -> str:
    """Return how the file of an entry is called after its key: by the layer that tokens enter, the layers whose
    contexts are read where it is not all, or the type of grids, which may differ between runs of the same key."""
    if kind in GRIDS:
        return f"{kind}{next(name for name, dtype in TYPES.items() if dtype == model.grid_type)}"
    layers = model.readout.contexts_of
    if kind == "contexts" and layers is not None and len(layers) < len(model.encoder.layers):
        return f"{kind}{'_'.join(map(str, layers))}"
    return f"{kind}{model.depth}" if kind == "tokens" else kind


@dataclass
class SplitCacheStatus:
    """The outcome of one split: the `key` of its entries, or the `reason` why it is not stored; the kinds that were
    `found` and `computed`; the bytes that this run reads, and how many of them from memory."""

    key: str | None = None
    reason: str | None = None
    found: tuple[Kind, ...] = ()
    computed: tuple[Kind, ...] = ()
    num_bytes: int = 0
    bytes_in_memory: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.reason is not None:
            return f"not stored: {self.reason}"
        done = f"computed in {self.seconds:.1f} s" if self.computed else "found"
        place = "in memory" if self.bytes_in_memory == self.num_bytes else "memory-mapped"
        return f"{self.key[:KEY_LENGTH]} {done}, {size(self.num_bytes)} {place}"


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run that its store needs. `origin`: the inputs that observations depend on besides the images;
    `method` and `augment` are the run's options."""

    origin: Mapping[str, Any]
    method: str
    augment: str


class Store:
    """The stored observations of one run's splits. Raise ConfigError where the training images must be stored and
    cannot be."""

    def __init__(
        self,
        features: Features,
        *,
        model: Model,
        splits: Mapping[str, Images],
        run: RunFacts,
        observed_by: ObservationPass,
        quiet: bool,
    ) -> None:
        model.round_observations_to(TYPES[features.dtype], grid=TYPES[features.grid_dtype])
        self.held: dict[str, SplitCacheStatus] = {}
        self._features = features
        self._say = _log.debug if quiet else _log.info
        self._model = model
        self._splits = splits
        shared = {"dtype": features.dtype, "timm": timm.__version__, "format": FORMAT}
        self._origin = {**run.origin, **shared, **model.encoder.trunk.mark}
        self._run = run
        self._observed_by = observed_by
        self._sources: dict[str, Source] = {}
        self._memory_left = features.memory_gib * _GIB
        self._kinds = model.frozen
        self._require()

    def source(self, split: str) -> Source:
        """Return what the model's present phase reads of a split: observations, computed now unless they are stored, or
        the images or views themselves where observations cannot be stored."""
        if self._kinds != self._model.frozen:  # a new phase has begun
            self._kinds = self._model.frozen
            self._sources.clear()
            self._memory_left = self._features.memory_gib * _GIB
        if split not in self._sources:
            started = monotonic()
            name = f"{split}, {self._model.phase.name}" if split in self.held else split
            held = self.held[name] = SplitCacheStatus(reason=self._refusal(split))
            self._sources[split] = self._unstored(split) if held.reason else self._observed(split, held)
            held.seconds = monotonic() - started
            if held.reason is None or held.reason not in {other.reason for other in self._others(name)}:
                self._say("%-9s %s %s", "store", split, held)
        return self._sources[split]

    def stores(self, split: str) -> bool:
        """Return whether the present phase reads stored observations of a split, if they fit."""
        return self._refusal(split) is None

    def record(self) -> dict[str, dict[str, Any]]:
        """Return the outcome of each split for the result file, by split name."""
        return {split: vars(held) for split, held in self.held.items()}

    def _others(self, name: str) -> list[SplitCacheStatus]:
        return [held for other, held in self.held.items() if other != name]

    def _require(self) -> None:
        """Raise ConfigError where the first phase needs stored training images, or a few views of them, and cannot have
        them."""
        if "train" not in self._splits:
            return
        if self._features.use == "always" and (reason := self._refusal("train")):
            raise ConfigError(f"features.use=always: {reason}")
        if self._features.views and (reason := self._changes()):
            raise ConfigError(f"features.views={self._features.views}: {reason}")

    def _refusal(self, split: str) -> str | None:
        """Return why what the present phase reads of a split is not stored, or None where it is."""
        if self._features.use == "never":
            return "features.use=never"
        if split == "train" and self._run.augment != "none" and not self._features.views and self._model.frozen:
            return (
                f"data.augment={self._run.augment} makes the images new in each epoch; features.views=N stores N views"
            )
        return self._changes()

    def _changes(self) -> str | None:
        """Return why the backbone's observations of an image differ between epochs of the present phase, or None where
        they do not."""
        if self._model.frozen is not None:
            return None
        if self._model.dropping:
            return f"{self._model.dropping[0]} is above 0, so features change during training"
        where = "from its first layer on" if self._model.depth == 0 else "before the last layer that the head reads"
        return f"{self._run.method} works inside the backbone {where}, so features change during training"

    def _observed(self, split: str, held: SplitCacheStatus) -> Source:
        """Load the stored observations of a split and compute the rest; where they fit nowhere, return the images or
        views instead."""
        images, views = self._splits[split], self._views(split)
        held.key = self.key(split)
        needed = self._model.frozen
        entries = self._entries(held.key, len(images) * max(1, views), needed)
        shelf, fault = self._features.shelf, self._features.shelf.fault()
        if fault:
            _log.warning("store     %s; nothing is kept there", fault)
        alone: AbstractContextManager = nullcontext() if fault else shelf.alone(held.key[:KEY_LENGTH])
        with alone:
            rows = {kind: found for kind, entry in entries.items() if (found := shelf.find(entry)) is not None}
            contexts_of = None
            if "contexts" in needed - rows.keys() and (whole := self._whole_contexts(entries["contexts"])) is not None:
                entries["contexts"], rows["contexts"] = whole
                contexts_of = self._model.readout.contexts_of
            held.found = tuple(rows)
            kept = {kind for kind in entries if kind in needed and self._fits(entries[kind], held)}
            rows |= {kind: rows[kind].clone() for kind in kept & rows.keys()}
            if missing := {kind: entry for kind, entry in entries.items() if kind not in rows}:
                origin = self.origin(split)
                sinks = {
                    kind: FeatureWriter(
                        entry,
                        {**origin, "kind": kind, **self._type_of(kind)},
                        in_memory=kind in kept,
                        shelf=None if fault else shelf,
                    )
                    for kind, entry in missing.items()
                }
                sinks = {kind: sink for kind, sink in sinks.items() if kind in needed or not sink.lost}
                self._announce(split, [sinks[kind].entry for kind in sorted(GRIDS & sinks.keys())])
                filled = fill(self._model, images, sinks, self._observed_by, views=views, needed=needed, label=split)
                held.computed = tuple(filled)
                rows |= filled
        if not needed <= rows.keys():
            held.reason = "it fits neither in memory nor on disk, so the backbone runs each time"
            if self._features.use == "always" and split == "train":
                raise ConfigError(f"features.use=always: {held.reason}; see features.memory_gib and features.disk_gib")
            self._memory_left += held.bytes_in_memory
            held.bytes_in_memory = 0
            return self._unstored(split)
        held.num_bytes = sum(entries[kind].num_bytes for kind in needed)
        view_labels = labels_of_views(images, views)
        observed = Observed(images.labels, {kind: rows[kind] for kind in needed}, view_labels, contexts_of)
        observed.whole_mask, observed.windows = images.whole_mask, images.windows
        return observed

    def _announce(self, split: str, entries: Iterable[CacheEntry]) -> None:
        """Say how large the grids of a split will be, before they are computed."""
        for entry in entries:
            count, row = entry.shape[0], entry.num_bytes / entry.shape[0]
            self._say(
                "%-9s %s grids of %d images: %s, %s each", "store", split, count, size(entry.num_bytes), size(row)
            )

    def _type_of(self, kind: Kind) -> dict[str, str]:
        """Return what the origin of a grid says of its type instead of that of the others."""
        return {"dtype": self._features.grid_dtype} if kind in GRIDS else {}

    def _whole_contexts(self, entry: CacheEntry) -> tuple[CacheEntry, Tensor] | None:
        """Return the entry of the contexts of all layers, which holds those of `entry`, and its rows, if it exists."""
        shapes = self._model.encoder.observed_shapes(depth=self._model.depth)
        path = self._features.shelf.path(f"{entry.key[:KEY_LENGTH]}-contexts")
        whole = replace(entry, path=path, shape=(entry.shape[0], *shapes["contexts"]))
        rows = None if whole.path == entry.path else self._features.shelf.find(whole)
        return None if rows is None else (whole, rows)

    def _views(self, split: str) -> int:
        """Return the number of augmented views of each image; 0 means the images as their augmentation makes them."""
        return self._features.views if split == "train" and self._run.augment != "none" else 0

    def _unstored(self, split: str) -> Source:
        """Return the inputs that the backbone processes each time: the augmented views that would be stored if the
        model has frozen observations, otherwise the images."""
        images, views = self._splits[split], self._views(split)
        return Views(images, views) if views and self._model.frozen else images

    def _entries(self, key: str, count: int, needed: frozenset[Kind]) -> dict[Kind, CacheEntry]:
        """Return the entries of the needed kinds, and of the kinds that a sweep requests and no run has written yet."""
        shapes = self._model.observed_shapes()
        names = {kind: entry_name(kind, self._model) for kind in shapes}
        path = {kind: self._features.shelf.path(f"{key[:KEY_LENGTH]}-{name}") for kind, name in names.items()}
        # of an encoder that a method changes in later layers, other runs could read only the tokens
        also = {
            kind
            for kind in self._features.also
            if kind in shapes and "tokens" not in needed and not os.path.isfile(path[kind])
        }
        return {
            kind: CacheEntry(
                path=path[kind],
                key=key,
                shape=(count, *shapes[kind]),
                dtype=self._model.type_of(kind),
            )
            for kind in sorted(needed | also, key=lambda kind: (kind not in needed, kind))  # as they take the room
        }

    def origin(self, split: str) -> dict[str, Any]:
        """Return what the entries of a split record as their origin, besides their kind."""
        return {**self._origin, "split": split, "images": len(self._splits[split]), "views": self._views(split)}

    def key(self, split: str) -> str:
        """Return the key of a split's entries: the SHA-256, in hex, of all that its observations depend on."""
        images, views = self._splits[split].digest(), self._views(split)
        seen = {"images": images, "views": views, "augment": source_of(self._run.augment) if views else "none"}
        return hashlib.sha256(json.dumps({**self._origin, **seen}, sort_keys=True).encode()).hexdigest()

    def _fits(self, entry: CacheEntry, held: SplitCacheStatus) -> bool:
        """Return whether an entry fits into the memory that is left; if so, reserve its bytes."""
        fits = entry.num_bytes <= self._memory_left
        if fits:
            self._memory_left -= entry.num_bytes
            held.bytes_in_memory += entry.num_bytes
        return fits
