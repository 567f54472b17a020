"""This module provides training inputs other than the images themselves: observations of them, or of N augmented views
of each, and the features that a head reads."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from peft_vision.backbone.observation import Kind, Observation
from peft_vision.core.device_memory import numbers_on
from peft_vision.core.seeding import derive
from peft_vision.data.draws import below
from peft_vision.data.images import Images, MaskedImages, Source

_VIEW = 4  # random stream, different from those of the augmentations


def view_seed(view: int) -> int:
    """Return the seed of a view's augmentation, which is independent of the run's, so that all runs see the same
    views."""
    return derive(0, "view", view)


def drawn_views(views: int, indices: Tensor, *, seed: int | None) -> Tensor:
    """Return which view (B,) of each image an epoch with this seed uses; without a seed, the first."""
    if seed is None or views <= 1:
        return torch.zeros_like(indices)
    return torch.from_numpy(below(views, indices, seed=seed, stream=_VIEW))


class Observed(Source):
    """A source of packed observations of n images. `rows`: a tensor (views * n, ...) for each kind, view by view, on
    the device of the labels. An epoch's seed draws the view of each image; without a seed it is the first.
    `view_labels`: the labels (views * n, ...) of each view, where they move with the images; None: those of the image.
    `contexts_of`: the places among the rows' layers whose contexts are read (None: all). `moved_bytes` counts what
    batches moved to that device."""

    def __init__(
        self,
        labels: Tensor,
        rows: Mapping[Kind, Tensor],
        view_labels: Tensor | None = None,
        contexts_of: Sequence[int] | None = None,
    ) -> None:
        self.labels = labels
        self.rows = rows
        self.view_labels = view_labels
        self.contexts_of = contexts_of
        self.views = len(next(iter(rows.values()))) // len(labels)
        self.moved_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Return the size of all rows in bytes, and of the labels of views."""
        labels = 0 if self.view_labels is None else self.view_labels.nbytes
        return labels + sum(rows.nbytes for rows in self.rows.values())

    def on(self, device: torch.device) -> "Observed":
        """Return the same observations on `device`; their batches are made there."""
        view_labels = None if self.view_labels is None else self.view_labels.to(device)
        rows = {kind: rows.to(device) for kind, rows in self.rows.items()}
        return Observed(self.labels.to(device), rows, view_labels, self.contexts_of)

    def clear(self) -> None:
        """Free the rows; no further batch can be made."""
        self.rows = {}

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Observation, Tensor]]:
        """Yield for each (B,) of indices, which are on the CPU, an Observation and labels (B,)."""

        def places(indices: Tensor) -> Tensor:
            """Return the indices of images and of rows, (2, n)."""
            return torch.stack([indices, indices + len(self) * drawn_views(self.views, indices, seed=seed)])

        for indices, rows in numbers_on(self.labels.device, index_batches, places, self._count):
            labels = self.labels[indices] if self.view_labels is None else self.view_labels[rows]
            yield self._fetched(rows), labels

    def in_order(self, *, batch_size: int, workers: int) -> Iterator[tuple[Observation, Tensor]]:
        """Yield every view of every image, view by view."""
        labels = torch.cat([self.labels] * self.views) if self.view_labels is None else self.view_labels
        for start in range(0, len(labels), batch_size):
            part = torch.arange(start, min(start + batch_size, len(labels)), device=labels.device)
            yield self._fetched(part), labels[part]

    def _count(self, num_bytes: int) -> None:
        self.moved_bytes += num_bytes

    def _fetched(self, places: Tensor) -> Observation:
        """Return the observations at `places` (B,)."""
        fetched: dict[Kind, Tensor | tuple[Tensor, ...]] = {}
        for kind, rows in self.rows.items():
            if kind == "contexts":
                # a layer at a time: blocks of a few MB reuse the process's heap, larger ones are mapped anew each time
                layers = rows.flatten(0, 1)
                fetched[kind] = tuple(
                    layers.index_select(0, places * rows.shape[1] + layer)
                    for layer in (range(rows.shape[1]) if self.contexts_of is None else self.contexts_of)
                )
            else:
                fetched[kind] = rows.index_select(0, places)
        return Observation(**fetched).readable()


def labels_of_views(images: Images, views: int) -> Tensor | None:
    """Return the labels (views * n, ...) of all views, view by view, where they move with the images; else None."""
    if not isinstance(images, MaskedImages) or not views:
        return None
    return torch.cat([images.masks(seed=view_seed(view)) for view in range(views)])


class Views(Source):
    """A source of `views` augmented views of images, computed when requested. The views are drawn as in `Observed`,
    which holds observations of the same images, so that training does not depend on the room to store them."""

    def __init__(self, images: Images, views: int) -> None:
        self.whole_mask = images.whole_mask
        self.images = images
        self.views = views

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """Return the labels of the images as they are, not as in a view."""
        return self.images.labels

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each (B,) of indices, images uint8 (B, C, H, W) and labels (B, ...), masks as in their view."""
        drawn = [drawn_views(self.views, indices, seed=seed) for indices in index_batches]
        shown = [
            self.images.batches(
                [indices[view_of == view] for indices, view_of in zip(index_batches, drawn, strict=True)],
                seed=view_seed(view),
                workers=-(-workers // self.views),
            )
            for view in range(self.views)
        ]
        for indices, view_of, *parts in zip(index_batches, drawn, *shown, strict=True):
            first = parts[0]
            pixels, labels = (torch.empty((len(indices), *one.shape[1:]), dtype=one.dtype) for one in first)
            for view, part in enumerate(parts):
                pixels[view_of == view], labels[view_of == view] = part
            yield pixels, labels

    def in_order(self, *, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every view of every image, view by view."""
        batches = torch.arange(len(self)).split(batch_size)
        for view in range(self.views):
            yield from self.images.batches(batches, seed=view_seed(view), workers=workers)


class FeatureTable(Source):
    """A source of `features` (n, W) in memory, on the device of the labels. `moved_bytes` counts what batches moved to
    it."""

    def __init__(self, labels: Tensor, features: Tensor) -> None:
        self.labels = labels
        self.features = features
        self.moved_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Return the size of the features in bytes."""
        return self.features.nbytes

    def on(self, device: torch.device) -> "FeatureTable":
        """Return the same features on `device`; their batches are made there."""
        return FeatureTable(self.labels.to(device), self.features.to(device))

    def clear(self) -> None:
        """Free the features; no further batch can be made."""
        self.features = self.features[:0].clone()

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each (B,) of indices, which are on the CPU, features (B, W) and labels (B,)."""
        for (indices,) in numbers_on(self.labels.device, index_batches, lambda indices: indices[None], self._count):
            yield self.features[indices], self.labels[indices]

    def _count(self, num_bytes: int) -> None:
        self.moved_bytes += num_bytes
