"""Inputs to fit to beside the images as they are: what was observed of them, or of N augmented views of each, and the
features a head reads."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from peft_vision.backbone.observation import Kind, Observation
from peft_vision.data.counter_random import below
from peft_vision.data.images import Images, Source
from peft_vision.seeding import derive

_VIEW = 4  # stream of random numbers beside those of the augmentations


def view_seed(view: int) -> int:
    """Return the seed of a view's augmentation, which is independent of the run's, so that all runs see the same
    views."""
    return derive(0, "view", view)


def drawn_views(views: int, indices: Tensor, *, seed: int | None) -> Tensor:
    """Which view (B,) an epoch with this seed shows of each image; without a seed it is the first."""
    if seed is None or views <= 1:
        return torch.zeros_like(indices)
    return torch.from_numpy(below(views, indices, seed=seed, stream=_VIEW))


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
            places = indices + len(self) * drawn_views(self.views, indices, seed=seed)
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


class Views(Source):
    """`views` augmented views of images, made when they are asked for: the images of which `Observed` holds what was
    observed, and drawn as it draws them, so that what is trained does not hang on the room there is to store it."""

    def __init__(self, images: Images, views: int) -> None:
        self.labels = images.labels
        self.images = images
        self.views = views

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each (B,) of indices, images uint8 (B, 3, S, S) and labels (B,)."""
        drawn = [drawn_views(self.views, indices, seed=seed) for indices in index_batches]
        shown = [
            self.images.batches(
                [indices[own == view] for indices, own in zip(index_batches, drawn, strict=True)],
                seed=view_seed(view),
                workers=-(-workers // self.views),
            )
            for view in range(self.views)
        ]
        for indices, own, *parts in zip(index_batches, drawn, *shown, strict=True):
            pixels = torch.empty((len(indices), *parts[0][0].shape[1:]), dtype=torch.uint8)
            for view, (part, _) in enumerate(parts):
                pixels[own == view] = part
            yield pixels, self.labels[indices]

    def in_order(self, *, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every view of every image, view by view."""
        batches = torch.arange(len(self)).split(batch_size)
        for view in range(self.views):
            yield from self.images.batches(batches, seed=view_seed(view), workers=workers)


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
