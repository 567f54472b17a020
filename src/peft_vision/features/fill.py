"""This module passes a split's images once through a frozen encoder and writes the observations to memory, a file, or
both."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peft_vision.backbone.observation import GRIDS, Kind
from peft_vision.core.config import ConfigError
from peft_vision.core.device_memory import SMALLER_PASS, needing_memory, on_device
from peft_vision.core.progress import Progress
from peft_vision.data.images import Images, Source
from peft_vision.features.entry import Broken, CacheEntry, Writer
from peft_vision.features.shelf import CacheDir
from peft_vision.models.model import Model
from peft_vision.models.observations import FeatureTable, view_seed

_log = logging.getLogger("peft_vision")
_BATCH_BYTES = 2**28  # observations held at a time
_CPU_BATCH = 16  # images at a time; more leave a CPU's cache, and ViT-B/16 takes a fifth longer with 128


class FeatureWriter:
    """A destination for the rows of an entry, written in order. If the disk refuses them, a warning is logged and only
    memory keeps them."""

    def __init__(
        self, entry: CacheEntry, origin: Mapping[str, Any], *, in_memory: bool, shelf: CacheDir | None
    ) -> None:
        """Allocate memory, open a file, or both. `shelf`: the folder in which the rows are also written if there is
        room."""
        self.entry = entry
        self._memory = torch.empty(entry.shape, dtype=entry.dtype) if in_memory else None
        self._writer: Writer | None = None
        self._taken = 0
        if shelf is not None:
            self._try(lambda: setattr(self, "_writer", shelf.writer(entry, origin)))

    @property
    def lost(self) -> bool:
        """True if the rows are kept neither in memory nor in a file."""
        return self._memory is None and self._writer is None

    def write(self, rows: Tensor) -> None:
        """Append the next rows."""
        if self._memory is not None:
            self._memory[self._taken : self._taken + len(rows)] = rows
        self._taken += len(rows)
        if self._writer is not None:
            self._try(lambda: self._writer.write(rows))

    def finish(self) -> Tensor | None:
        """Return all rows, in memory or mapped from the file; None where they are lost."""
        if self._writer is not None:
            self._try(self._writer.place)
        if self._memory is None and self._writer is not None:
            try:
                return self.entry.open()
            except (Broken, OSError):  # another process has removed it already, or the disk cannot read it
                return None
        return self._memory

    def discard(self) -> None:
        """Remove an unfinished file."""
        if self._writer is not None:
            self._writer.discard()

    def _try(self, write: Any) -> None:
        try:
            write()
        except OSError as error:
            path = self.entry.path
            _log.warning("store     cannot write %s: %s; nothing of it is kept there", path, error.strerror or error)
            self.discard()
            self._writer = None


def observed_at_once(batch_size: int, device: torch.device) -> int:
    """Return the number of images per pass for a run with this batch size in evaluation; at most 16 on a CPU."""
    return min(batch_size, _CPU_BATCH) if device.type == "cpu" else batch_size


@dataclass(frozen=True)
class ObservationPass:
    """A pass of images through the backbone, by the run's batch size in evaluation, loader processes and precision."""

    batch_size: int
    workers: int
    autocast: torch.autocast
    device: torch.device


@torch.no_grad()
def fill(
    model: Model,
    images: Images,
    sinks: Mapping[Kind, FeatureWriter],
    by: ObservationPass,
    *,
    views: int,
    needed: frozenset[Kind],
    label: str,
) -> dict[Kind, Tensor]:
    """Return the rows of each kind that its sink kept: of all images as they are, or of `views` augmented views of
    each, one view after the other. Stop early, and return nothing, when a needed kind is lost."""
    wanted = needed & sinks.keys()

    def lost() -> bool:
        """Return whether a pass would be useless: there is no sink, or the sink of a needed kind keeps nothing."""
        return not sinks or any(sinks[kind].lost for kind in wanted)

    if lost():
        _discard(sinks)
        return {}
    row_bytes = sum(sink.entry.num_bytes // sink.entry.shape[0] for sink in sinks.values())
    at_once, device = observed_at_once(by.batch_size, by.device), by.device
    batches = torch.arange(len(images)).split(max(1, min(at_once, _BATCH_BYTES // row_bytes)))
    seeds = [view_seed(view) for view in range(views)] or [None]
    try:
        room = needing_memory(f"a forward pass of {at_once} images", device, SMALLER_PASS)
        progress = Progress(label=f"observing {label}", total=len(images) * len(seeds), unit="images")
        with progress, by.autocast, room:
            for seed in seeds:
                for pixels, labels in on_device(images.batches(batches, seed=seed, workers=by.workers), device):
                    seen = model.observe(pixels, sinks.keys())
                    for kind, sink in sinks.items():
                        sink.write(_fitting(seen.pack(kind), kind, sink.entry.dtype))
                    if lost():
                        return {}
                    progress.advance(len(labels))
        rows = {kind: sink.finish() for kind, sink in sinks.items()}
        return {kind: kept for kind, kept in rows.items() if kept is not None}
    finally:
        _discard(sinks)


def _fitting(rows: Tensor, kind: Kind, dtype: torch.dtype) -> Tensor:
    """Return the rows in `dtype`. Raise ConfigError where a grid, which need not be normed, has larger numbers than its
    type holds."""
    rows = rows.to(dtype)
    if kind in GRIDS and not rows.isfinite().all():
        raise ConfigError(
            f"features.grid_dtype: the backbone shows numbers that {str(dtype).removeprefix('torch.')} cannot hold, or "
            "NaN; set features.grid_dtype=bf16 or fp32"
        )
    return rows


def _discard(sinks: Mapping[Kind, FeatureWriter]) -> None:
    for sink in sinks.values():
        sink.discard()


@torch.no_grad()
def tabulated(
    model: Model, source: Source, *, batch_size: int, workers: int, autocast: torch.autocast, device: torch.device
) -> FeatureTable:
    """Return the features and labels of all inputs of `source`, every view included, computed in evaluation mode and
    kept in memory on the CPU."""
    was_training = model.training
    model.eval()
    features, labels = [], []
    room = needing_memory(f"a forward pass of {batch_size} images", device, SMALLER_PASS)
    with Progress(label="features", total=len(source), unit="images") as progress, autocast, room:
        for seen, batch_labels in on_device(source.in_order(batch_size=batch_size, workers=workers), device):
            features.append(model.features(seen).float().cpu())
            labels.append(batch_labels.cpu())
            progress.advance(len(batch_labels))
    model.train(was_training)
    return FeatureTable(torch.cat(labels), torch.cat(features))
