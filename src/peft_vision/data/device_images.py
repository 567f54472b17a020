"""This module makes batches of decoded images on the device where all of a split's pixels lie.

What is random stays a draw from (seed, index of the image), made on the CPU, and the rest moves bytes only: a batch is
bit for bit the one that `Images` makes, and the indices and draws are all that moves to the device in an epoch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from peft_vision.core.device_memory import numbers_on
from peft_vision.core.preprocessing import sides_of
from peft_vision.data.augment import drawn_windows, margins
from peft_vision.data.decode import middle
from peft_vision.data.images import ON_CPU_OR_DEVICE, Images, Source, UncroppedImages, Undecoded, parted


def device_bytes(images: Images) -> int | None:
    """Return how many bytes the pixels take on a device, or None if batches are made on the CPU alone: of pictures that
    are decoded at each access, and by scale_crop_flip, rand_augment and a user's function, whose operations are the
    CPU's."""
    if isinstance(images.pixels, Undecoded) or images.augment not in ON_CPU_OR_DEVICE:
        return None
    if isinstance(images.pixels, UncroppedImages):
        return sum(whole.nbytes for whole in images.pixels.arrays)
    return images.pixels.nbytes


class DeviceImages(Source):
    """The images of a split on a device, with their labels; masks are one more channel of the pixels. `moved_bytes`
    counts what batches moved to the device since then, and `images`, the split on the CPU, the images that were handed
    out. `clear` frees the pixels."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.images = images
        self._labels = None if images.masked else images.labels.to(device)
        self.moved_bytes = 0
        self._device = device
        uncropped = isinstance(images.pixels, UncroppedImages)
        self._pixels: _Cut | _Wholes | None = (_Wholes if uncropped else _Cut)(images.pixels, device)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """Return the labels on the device, masks on the CPU."""
        return self.images.labels if self._labels is None else self._labels

    def clear(self) -> None:
        """Free the pixels on the device; no further batch can be made."""
        self._pixels = None

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each tensor (B,) of indices, images uint8 (B, C, H, W) and labels (B, ...), on the device."""
        augment = "none" if seed is None else self.images.augment

        def numbers(indices: Tensor) -> Tensor:
            drawn = self._pixels.windows(indices, augment=augment, seed=seed)
            return torch.stack([indices, *map(torch.from_numpy, drawn)])

        columns_of = numbers_on(self._device, index_batches, numbers, self._count)
        for indices, columns in zip(index_batches, columns_of, strict=True):
            self.images.handed_out += len(indices)
            pixels = self._pixels.cut(*columns)
            yield parted(pixels) if self.images.masked else (pixels, self._labels[columns[0]])

    def _count(self, num_bytes: int) -> None:
        self.moved_bytes += num_bytes


class _Cut:
    """Images (n, C, H, W), of which windows are cut from the mirrored margin of `flip_crop`."""

    def __init__(self, pixels: Tensor, device: torch.device) -> None:
        self._pixels = pixels.to(device)
        self._margins = margins(*pixels.shape[-2:])
        self._rows, self._columns = (torch.arange(side, device=device) for side in pixels.shape[-2:])
        self._channels = torch.arange(pixels.shape[1], device=device).view(1, -1, 1, 1)

    def windows(self, indices: Tensor, *, augment: str, seed: int | None) -> tuple[np.ndarray, ...]:
        """Return top, left and whether the window is mirrored, (n,) each; nothing for whole images."""
        rows, columns = (2 * margin + 1 for margin in self._margins)
        return () if augment == "none" else drawn_windows(rows, columns, indices, seed=seed)

    def cut(self, indices: Tensor, *window: Tensor) -> Tensor:
        """Return the windows (B, C, H, W) of the images at `indices` (B,)."""
        if not window:
            return self._pixels.index_select(0, indices)
        tops, lefts, flips = (numbers.unsqueeze(1) for numbers in window)
        mirrored = len(self._columns) - 1 - self._columns
        rows = _reflected(tops + self._rows - self._margins[0], len(self._rows))
        columns = lefts + torch.where(flips == 1, mirrored, self._columns)
        columns = _reflected(columns - self._margins[1], len(self._columns))
        places = (indices.view(-1, 1, 1, 1), self._channels, rows[:, None, :, None], columns[:, None, None, :])
        return self._pixels[places]


def _reflected(places: Tensor, length: int) -> Tensor:
    """Return the places in an image, whose side has this `length`, of places that may lie in a margin around it, which
    mirrors the image."""
    last = length - 1
    return last - (last - places.abs()).abs()


class _Wholes:
    """Images of differing shapes, one after the other in one tensor, of which `crop_flip` cuts windows."""

    def __init__(self, pixels: UncroppedImages, device: torch.device) -> None:
        shapes = np.array([whole.shape[1:] for whole in pixels.arrays], dtype=np.int64).reshape(-1, 2)
        channels = len(pixels.arrays[0]) if pixels.arrays else 3
        lengths = channels * shapes.prod(axis=1)
        ends = np.cumsum(lengths)
        height, width = sides_of(pixels.size)
        self._room = shapes - (height, width) + 1
        self._middles = np.array([[middle(rows, height), middle(columns, width)] for rows, columns in shapes.tolist()])
        self._flat = torch.empty(int(lengths.sum()), dtype=torch.uint8, device=device)
        starts = ends - lengths
        for whole, start, end in zip(pixels.arrays, starts.tolist(), ends.tolist(), strict=True):
            self._flat[start:end].copy_(torch.from_numpy(whole.reshape(-1)))
        self._starts, self._heights, self._widths = (
            torch.from_numpy(np.ascontiguousarray(numbers)).to(device) for numbers in (starts, *shapes.T)
        )
        self._rows, self._columns = (torch.arange(side, device=device) for side in (height, width))
        self._channels = torch.arange(channels, device=device).view(1, -1, 1, 1)

    def windows(self, indices: Tensor, *, augment: str, seed: int | None) -> tuple[np.ndarray, ...]:
        """Return top, left and whether the window is mirrored, (n,) each: those of the centres without augmentation."""
        places = indices.numpy()
        if augment == "none":
            tops, lefts = self._middles[places].T
            return np.ascontiguousarray(tops), np.ascontiguousarray(lefts), np.zeros_like(tops)
        return drawn_windows(self._room[places, 0], self._room[places, 1], indices, seed=seed)

    def cut(self, indices: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor) -> Tensor:
        """Return the windows (B, C, H, W) of the images at `indices` (B,)."""
        widths = self._widths[indices].view(-1, 1, 1, 1)
        planes = self._heights[indices].view(-1, 1, 1, 1) * widths
        columns = torch.where(flips.unsqueeze(1) == 1, len(self._columns) - 1 - self._columns, self._columns)
        rows = (tops.unsqueeze(1) + self._rows)[:, None, :, None]
        columns = (lefts.unsqueeze(1) + columns)[:, None, None, :]
        starts = self._starts[indices].view(-1, 1, 1, 1)
        return self._flat[starts + self._channels * planes + rows * widths + columns]
