"""This module holds pictures whose pixels are plain values, in memory or read from larger files."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable

import numpy as np
from PIL import Image
from torch import Tensor

from peft_vision.data.bands import Bands, as_bands
from peft_vision.data.sequences import Pictures


class PixelPictures(Pictures):
    """Pictures whose pixels are stored as plain values."""

    @abstractmethod
    def values(self, index: int) -> np.ndarray:
        """Return the stored values of a picture, which must not be written to."""

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.values(index)))

    def verify(self, index: int) -> None:
        self.values(index)

    def content(self, index: int) -> bytes:
        return self.values(index).tobytes()

    def length(self, index: int) -> int | None:
        return self.values(index).nbytes

    def middle(self, index: int) -> bytes:
        return hashlib.sha256(self.content(index)).digest()


class Arrays(PixelPictures):
    """Pictures that lie in memory as uint8 (n, H, W, 3), or as uint8 or uint16 of any number of channels; none of them
    can be corrupt."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"image {index}"

    def values(self, index: int) -> np.ndarray:
        return self.images[index]

    def read(self, index: int) -> Image.Image:
        return super().read(index) if self._rgb else self._bands(index).preview()

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        return super().read(index) if self._rgb and channels in (1, 3) else self._bands(index)

    def verify(self, index: int) -> None:
        if not self._rgb:
            self._bands(index).with_channels(3, full_scale=None)

    @property
    def _rgb(self) -> bool:
        return self.images.dtype == np.uint8 and self.images.shape[3:] == (3,)

    def _bands(self, index: int) -> Bands:
        values = self.images[index]
        return as_bands(values, values.shape[-1] if values.ndim == 3 else None)

    def sides(self, index: int) -> tuple[int, int]:
        height, width = self.images.shape[1:3]
        return width, height

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for chunk in indices.split(1024):
            yield np.ascontiguousarray(self.images[chunk.numpy()]).tobytes()

    def marks(self, indices: Tensor) -> Iterable[bytes]:
        return map(self.middle, indices.tolist())
