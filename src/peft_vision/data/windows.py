"""This module cuts pictures into windows of the model's size, to segment pictures that are larger.

A picture is resized as data.resize=crop does, and not cropped: data.crop, the share of the resized short side that a
window takes, says how large. Windows lie `stride` pixels apart; the last one of a row or a column is moved inside. The
logits of each pixel are the mean over the windows that show it (as in mmsegmentation's slide_inference).
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, product

import numpy as np
import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import sides_of
from peft_vision.data.decode import Geometry
from peft_vision.data.images import Images, MaskedImages, Undecoded
from peft_vision.data.sequences import Pictures


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where the windows of a side of `length` pixels, at least `window`, begin."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(number * stride, length - window) for number in range(count)]


class WindowPixels(Undecoded):
    """A stand-in for a tensor (n, C, H, W) of the windows of all pictures, picture by picture; indexing decodes the
    pictures. `sides`: height and width of each resized picture; `windows`: the picture, top and left of each window.
    Raise ConfigError for a stride that leaves gaps."""

    def __init__(self, pictures: Pictures, indices: Tensor, geometry: Geometry, stride: int) -> None:
        super().__init__(pictures, indices, geometry)
        height, width = sides_of(geometry.size)
        if stride > min(height, width):
            raise ConfigError(f"objective.stride: got {stride}; between windows of {height} x {width} it leaves gaps")
        self.stride = stride
        self.sides = [geometry.whole_sides(*pictures.upright_sides(index)) for index in indices.tolist()]
        of_each = [
            [*product(window_starts(rows, height, stride), window_starts(columns, width, stride))]
            for rows, columns in self.sides
        ]
        self.windows = [(place, *corner) for place, corners in enumerate(of_each) for corner in corners]
        self._ends = np.cumsum([len(corners) for corners in of_each]).tolist()
        self._latest: tuple[int, np.ndarray] | None = None

    def of(self, place: int) -> Tensor:
        """Return the places among the windows of those of the picture at `place`, in their order."""
        return torch.arange(self._ends[place - 1] if place else 0, self._ends[place])

    def __getitem__(self, positions: Tensor) -> Tensor:
        height, width = sides_of(self.geometry.size)
        channels = self.geometry.channels + self.pictures.masked
        images = torch.empty((len(positions), channels, height, width), dtype=torch.uint8)
        for image, position in zip(images.numpy(), positions.tolist(), strict=True):
            place, top, left = self.windows[position]
            image[:] = self._whole(place)[:, top : top + height, left : left + width]
        return images

    def _whole(self, place: int) -> np.ndarray:
        """Return a whole resized picture; the latest is kept, as its windows are mostly read one after the other."""
        if self._latest is None or self._latest[0] != place:
            self._latest = (place, self.pictures.shaped(int(self.indices[place]), self.geometry, whole=True))
        return self._latest[1]

    def digest(self) -> str:
        return f"{super().digest()} {self.stride}"

    def resized(self, mask: np.ndarray) -> Tensor:
        """Return a whole mask at the size at which its picture is cut into windows, uint8 (H, W)."""
        return torch.tensor(self.geometry.mask(mask, whole=True)[0])

    def averaged(self, outputs: Iterable[Tensor], places: Iterable[int]) -> Iterator[Tensor]:
        """Yield the mean logits (C, H, W) of the picture at each of `places`, from batches (B, C, h, w) of the logits
        of their windows in order."""
        rows = chain.from_iterable(outputs)
        for place in places:
            total = times = None
            for window, row in zip(self.of(place).tolist(), rows, strict=False):
                if total is None:
                    total, times = row.new_zeros(len(row), *self.sides[place]), row.new_zeros(self.sides[place])
                _, top, left = self.windows[window]
                shown = (slice(top, top + row.shape[1]), slice(left, left + row.shape[2]))
                total[:, *shown] += row
                times[shown] += 1
            yield total / times


class WindowedImages(MaskedImages):
    """The windows of masked images, as images. Pictures are scored by their whole masks, so no window has labels of its
    own but those of its batch."""

    def __init__(self, images: MaskedImages, stride: int) -> None:
        self.windows = WindowPixels(images.part.pictures, images.part.indices, images.geometry, stride)
        super().__init__(images.part, self.windows, "none", images.geometry)

    def __len__(self) -> int:
        return len(self.windows.windows)

    @cached_property
    def labels(self) -> Tensor:
        """Return zeros, one for each window."""
        return torch.zeros(len(self), dtype=torch.uint8)

    def unaugmented(self) -> "WindowedImages":
        return WindowedImages(self, self.windows.stride)

    def whole_mask(self, index: int) -> np.ndarray:
        """Return the mask of the picture at `index`, not of a window, at its own size, uint8 (H0, W0)."""
        return self.part.pictures.mask(int(self.part.indices[index]))


def in_windows(images: Mapping[str, Images], stride: int | None) -> dict[str, Images]:
    """Return the images of each split as windows, but for those of training; as they are without a stride."""
    if stride is None:
        return dict(images)
    return {split: part if split == "train" else WindowedImages(part, stride) for split, part in images.items()}
