"""Inputs to fit to that are no images: what was observed of them, or the features a head reads."""

from collections.abc import Iterator, Mapping, Sequence

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
                places = indices + len(self) * below(self.views, indices, seed=seed, stream=_VIEW)
            rows = {kind: tensor[places] for kind, tensor in self.rows.items()}
            yield Observation.unpack(rows).readable(), self.labels[indices]

    def in_order(self, *, batch_size: int, workers: int) -> Iterator[tuple[Observation, Tensor]]:
        """Every view of every image."""
        labels = self.labels.repeat(self.views)
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            rows = {kind: tensor[part] for kind, tensor in self.rows.items()}
            yield Observation.unpack(rows).readable(), labels[part]


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
