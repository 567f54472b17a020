"""This module fetches the images of a split in batches whose composition the trainer decides.

A batch is a function of (seed, indices): the same from memory or from disk, with or without loader processes.
"""

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import Dataset

from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Size, sides_of
from peft_vision.core.seeding import derive
from peft_vision.data.augment import OF_WHOLES, augmented, crop_flip, scale_crop_flip
from peft_vision.data.decode import Geometry, middle
from peft_vision.data.loader import by_processes
from peft_vision.data.pictures import Labelled
from peft_vision.data.sequences import Pictures

_CHUNK = 64  # masks that are read at a time
ON_CPU_OR_DEVICE = ("none", "crop_flip", "flip_crop")
"""The augmentations that only move bytes."""


class UncroppedImages:
    """The uncropped images in memory, uint8 (C, H, W) each; indexing gives their centres (B, C, *size), like a
    tensor."""

    def __init__(self, arrays: Sequence[np.ndarray], size: Size) -> None:
        self.arrays = arrays
        self.size = size

    def __getitem__(self, positions: Tensor) -> Tensor:
        height, width = sides_of(self.size)
        channels = len(self.arrays[0]) if self.arrays else 3
        images = torch.empty((len(positions), channels, height, width), dtype=torch.uint8)
        for image, whole in zip(images.numpy(), self.wholes(positions), strict=True):
            top, left = middle(whole.shape[1], height), middle(whole.shape[2], width)
            image[:] = whole[:, top : top + height, left : left + width]
        return images

    def wholes(self, positions: Tensor) -> list[np.ndarray]:
        """Return the images (C, H, W) at `positions` (B,), which must not be written to."""
        return [self.arrays[position] for position in positions.tolist()]

    def digest(self) -> str:
        """Return the sha256 of pixels and shapes."""
        sha = hashlib.sha256(f"{self.size}".encode())
        for whole in self.arrays:
            sha.update(f"{whole.shape}".encode())
            sha.update(whole.data)
        return sha.hexdigest()


def usable(workers: int) -> int:
    """Return `workers`, but at most the number of CPUs this process may use, since more would only take turns."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(workers, cpus)


class Undecoded:
    """A stand-in for a uint8 tensor (n, C, H, W) that does not fit in memory; indexing decodes the pictures, with a
    mask as one more channel if they are masked."""

    def __init__(self, pictures: Pictures, indices: Tensor, geometry: Geometry) -> None:
        self.pictures = pictures
        self.indices = indices
        self.geometry = geometry

    def __getitem__(self, positions: Tensor) -> Tensor:
        channels = self.geometry.channels + self.pictures.masked
        images = torch.empty((len(positions), channels, *sides_of(self.geometry.size)), dtype=torch.uint8)
        for image, index in zip(images.numpy(), self.indices[positions].tolist(), strict=True):
            image[:] = self.pictures.shaped(index, self.geometry)
        return images

    def wholes(self, positions: Tensor) -> list[np.ndarray]:
        """Return uint8 (C, H, W) of the pictures at `positions` (B,), before their centres are cut out."""
        return [self.pictures.shaped(index, self.geometry, whole=True) for index in self.indices[positions].tolist()]

    @property
    def size(self) -> Size:
        return self.geometry.size

    def digest(self) -> str:
        """Return the sha256 of all encoded pictures, the geometry and Pillow's version."""
        channels = "" if self.geometry.channels == 3 else f" {self.geometry.channels} channels"
        scale = "" if self.geometry.full_scale is None else f" full scale {self.geometry.full_scale}"
        sha = hashlib.sha256(f"{self.geometry}{channels}{scale} Pillow {PIL.__version__}".encode())
        for content in self.pictures.contents(self.indices):
            sha.update(content)
        return sha.hexdigest()


class Source(ABC):
    """A set of inputs of some kind with `labels` (n, ...), on which a model can be trained or evaluated; pictures.py
    lists the kinds of labels. `whole_mask`: where labels are masks, returns the mask of an image at its own size,
    (H0, W0); else None. `windows`: the WindowPixels of windows.py, if the inputs are windows of pictures; the index of
    `whole_mask` is then that of the picture."""

    labels: Tensor
    whole_mask: Callable[[int], np.ndarray] | None = None
    windows: Undecoded | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[object, Tensor]]:
        """Yield, for each tensor (B,) of indices, the inputs for a model's forward and the labels (B, ...)."""

    def in_order(self, *, batch_size: int, workers: int) -> Iterator[tuple[object, Tensor]]:
        """Yield every input that `batches` may give once, in order, with its labels."""
        return self.batches(torch.arange(len(self)).split(batch_size), seed=None, workers=workers)


class Images(Source):
    """A split's images. `pixels`: uint8 (n, C, H, W) in memory or decoded at each access, or the uncropped pictures
    that crop_flip needs. `handed_out` counts the images yielded, each for one pass through a backbone."""

    masked = False

    def __init__(self, labels: Tensor, pixels: Tensor | UncroppedImages | Undecoded, augment: str) -> None:
        self.labels = labels
        self.pixels = pixels
        self.augment = augment
        self.handed_out = 0

    def unaugmented(self) -> "Images":
        """Return the same images, which no batch augments, with a count of their own."""
        return Images(self.labels, self.pixels, "none")

    def relabelled(self, positions: Tensor) -> "Images":
        """Return the same images, which no batch augments, labelled for a model whose class `positions[c]` is class c
        of these; of several labels or numbers it has as many as these."""
        if self.labels.ndim == 1:
            return Images(positions[self.labels], self.pixels, "none")
        return Images(self.labels[:, positions.argsort()], self.pixels, "none")

    def digest(self) -> str:
        """Return the sha256 of the pixels in memory, or of all that they are decoded from."""
        if not isinstance(self.pixels, Tensor):
            return self.pixels.digest()
        sha = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        sha.update(memoryview(self.pixels.numpy().reshape(-1)))
        return sha.hexdigest()

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each tensor (B,) of indices, images uint8 (B, C, H, W) and labels (B, ...); B may be 0. Without a
        seed nothing is augmented; no global random state is read or left changed."""
        fetch = _Batches(self, index_batches, seed)
        processes = min(usable(workers), len(index_batches))
        # from memory, indexing and windows cost less than sending a batch between processes
        augment = "none" if seed is None else self.augment
        here = processes == 0 or (not isinstance(self.pixels, Undecoded) and augment in ON_CPU_OR_DEVICE)
        loaded = (fetch[i] for i in range(len(fetch))) if here else by_processes(fetch, processes)
        for indices, pixels in zip(index_batches, loaded, strict=True):
            self.handed_out += len(indices)
            yield parted(pixels) if self.masked else (pixels, self.labels[indices])


class MaskedImages(Images):
    """The images of `part` with a mask each: `pixels` has one more channel, the mask. A batch has the masks as labels,
    uint8 (B, H, W), moved as their images are."""

    masked = True

    def __init__(
        self, part: Labelled, pixels: Tensor | UncroppedImages | Undecoded, augment: str, geometry: Geometry
    ) -> None:
        self.part = part
        self.pixels = pixels
        self.augment = augment
        self.geometry = geometry
        self.handed_out = 0

    def __len__(self) -> int:
        return len(self.part)

    @cached_property
    def labels(self) -> Tensor:
        """Return all masks at model size, without augmentation: uint8 (n, H, W), made at first use."""
        if isinstance(self.pixels, Undecoded) and len(self):  # without the pictures, which take longer
            pictures, indices = self.part.pictures, self.part.indices.tolist()
            masks = [self.geometry.mask(pictures.mask(index), whole=False) for index in indices]
            return torch.from_numpy(np.concatenate(masks))
        return self.pixels[:, -1] if isinstance(self.pixels, Tensor) else self.masks(seed=None)

    def masks(self, *, seed: int | None) -> Tensor:
        """Return all masks as batches with this seed have them, uint8 (n, H, W); no image is counted."""
        uncounted = MaskedImages(self.part, self.pixels, self.augment, self.geometry)
        batches = uncounted.batches(torch.arange(len(self)).split(_CHUNK), seed=seed, workers=0)
        return torch.cat([masks for _, masks in batches])

    def unaugmented(self) -> "MaskedImages":
        return MaskedImages(self.part, self.pixels, "none", self.geometry)

    def relabelled(self, positions: Tensor) -> "MaskedImages":
        """Return the same images, which no batch augments. ConfigError if the model has other places for the
        classes."""
        if not torch.equal(positions, torch.arange(len(positions))):
            raise ConfigError("data.classes: masks are scored by an adapter with the classes in its own order")
        return self.unaugmented()

    def whole_mask(self, index: int) -> np.ndarray:
        """Return the mask of what an image shows at the mask's own size, uint8 (H0, W0), read again from its file: all
        of it with squash, else without what the crop cuts off."""
        mask = self.part.pictures.mask(int(self.part.indices[index]))
        return mask[self.geometry.shown_part(mask.shape[1], mask.shape[0])]

    def whole_image(self, index: int) -> np.ndarray:
        """Return an image before its centre is cut out, uint8 (C, H, W), read again from its file."""
        return self.part.pictures.shaped(int(self.part.indices[index]), self.geometry, whole=True)[:-1]


def parted(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images uint8 (B, C, H, W) and the masks (B, H, W) of pixels (B, C + 1, H, W)."""
    return pixels[:, :-1].contiguous(), pixels[:, -1].contiguous()


def shuffled(count: int, *, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Return the indices of `count` images in batches, in an order that depends on seed and epoch only."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(count, generator=generator).split(batch_size)


class _Batches(Dataset):
    def __init__(self, images: Images, index_batches: Sequence[Tensor], seed: int | None) -> None:
        self.images = images
        self.index_batches = index_batches
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index_batches)

    def __getitem__(self, number: int) -> Tensor:
        indices, pixels, augment = self.index_batches[number], self.images.pixels, self.images.augment
        if self.seed is None or not len(indices):
            return pixels[indices]
        if augment not in OF_WHOLES:
            return augmented(pixels[indices], indices, augment=augment, seed=self.seed)
        size = tuple(pixels.shape[-2:]) if isinstance(pixels, Tensor) else pixels.size
        wholes = list(pixels[indices].numpy()) if isinstance(pixels, Tensor) else pixels.wholes(indices)
        if augment == "crop_flip":
            return crop_flip(wholes, indices, size=size, seed=self.seed)
        return scale_crop_flip(wholes, indices, size=size, seed=self.seed, masked=self.images.masked)
