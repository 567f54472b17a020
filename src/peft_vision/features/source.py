"""Inputs to fit to that are no images: what was observed of them, or the features a head reads."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from peft_vision.backbone.observation import Kind, Observation
from peft_vision.data.counter_random import below
from peft_vision.data.images import Source

_VIEW = 4  # stream of random numbers beside those of the augmentations


class Observed(Source):
    """Packed observations of n images in `rows`: (views * n, ...) a kind, view by view. An epoch's seed draws the view
    of each image; without a seed it is the first."""

    def __init__(self, labels: Tensor, rows: Mapping[Kind, Tensor]) -> None:
        self.labels = labels
        self.rows = rows
        self.views = len(next(iter(rows.values()))) // len(labels)

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Observation, Tensor]]:
        """For each (B,) of indices, an Observation and labels (B,)."""
        for indices in index_batches:
            places = indices
            if seed is not None and self.views > 1:
                drawn = torch.from_numpy(below(self.views, indices, seed=seed, stream=_VIEW))
                places = indices + len(self) * drawn
            yield self._fetched(places), self.labels[indices]

    def in_order(self, *, batch_size: int, workers: int) -> Iterator[tuple[Observation, Tensor]]:
        """Every view of every image."""
        labels = self.labels.repeat(self.views)
        for start in range(0, len(labels), batch_size):
            part = torch.arange(start, min(start + batch_size, len(labels)))
            yield self._fetched(part), labels[part]

    def _fetched(self, places: Tensor) -> Observation:
        """The observations at `places` (B,)."""
        fetched: dict[Kind, Tensor | tuple[Tensor, ...]] = {}
        for kind, rows in self.rows.items():
            if kind == "contexts":
                # a layer at a time: blocks of some MB stay in the process's heap, larger ones are mapped anew each time
                layers = rows.flatten(0, 1)
                fetched[kind] = tuple(
                    layers.index_select(0, places * rows.shape[1] + layer) for layer in range(rows.shape[1])
                )
            else:
                fetched[kind] = rows.index_select(0, places)
        return Observation(**fetched).readable()


class Table(Source):
    """`features` (n, W) in memory."""

    def __init__(self, labels: Tensor, features: Tensor) -> None:
        self.labels = labels
        self.features = features

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each (B,) of indices, features (B, W) and labels (B,)."""
        for indices in index_batches:
            yield self.features[indices], self.labels[indices]
