"""This module holds pictures that are rows of one array in a packed file, and pictures that a benchmark derived from
published ones.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peft_vision.data.arrays import PixelPictures
from peft_vision.data.pictures import Labelled
from peft_vision.data.sequences import Forwarded, Pictures

_ONE_READER = threading.Lock()  # only one of the threads that need the rows reads them


class Packed(PixelPictures):
    """Pictures at `rows` (n,), ascending, of an array in a larger `file`."""

    def __init__(self, file: Path, rows: np.ndarray) -> None:
        self.file = file
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.file} (image {self.rows[index]})"

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        size = self.file.stat().st_size
        for row in self.rows[indices.numpy()].tolist():
            yield f"{self.file.name}\0{size}\0{row}\0".encode()


class Rows(Packed):
    """Packed pictures that are all read at first use. `fetch` returns the rows as (n, ...) of any form, or raises
    ConfigError; `image` converts one of them to a picture."""

    def __init__(
        self,
        file: Path,
        rows: np.ndarray,
        *,
        fetch: Callable[[Path, np.ndarray], np.ndarray],
        image: Callable[[np.ndarray], Image.Image],
    ) -> None:
        super().__init__(file, rows)
        self._fetch = fetch
        self._image = image
        self._values: np.ndarray | None = None

    def read(self, index: int) -> Image.Image:
        return self._image(self.values(index))

    def values(self, index: int) -> np.ndarray:
        with _ONE_READER:
            if self._values is None:
                self._values = self._fetch(self.file, self.rows)
        return self._values[index]

    def only(self, parts: Sequence[Labelled]) -> list[Labelled]:
        """Return `parts` of these pictures, over a new `Rows` that holds no other images."""
        kept = np.unique(np.concatenate([part.indices.numpy() for part in parts]))
        pictures = Rows(self.file, self.rows[kept], fetch=self._fetch, image=self._image)
        places = [torch.from_numpy(np.searchsorted(kept, part.indices.numpy())) for part in parts]
        return [Labelled(pictures, place, part.labels) for place, part in zip(places, parts, strict=True)]


def picked(chunks: Iterable[np.ndarray], rows: np.ndarray, kept: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return `kept` applied to `rows` (n,), ascending, of an array (N, ...) that arrives in chunks of its rows."""
    found, start = [], 0
    for chunk in chunks:
        first, last = np.searchsorted(rows, [start, start + len(chunk)])
        found.append(kept(chunk[rows[first:last] - start]))
        start += len(chunk)
    return np.concatenate(found)


class Derived(Forwarded):
    """The result of `derive`, from RGB to RGB, for each of `pictures`, computed whenever it is read."""

    def __init__(self, pictures: Pictures, derive: Callable[[Image.Image], Image.Image]) -> None:
        self.pictures = pictures
        self.derive = derive

    def __len__(self) -> int:
        return len(self.pictures)

    def at(self, index: int) -> tuple[Pictures, int]:
        return self.pictures, index

    def read(self, index: int) -> Image.Image:
        return self.derive(self.pictures.read(index))

    def with_channels(self, index: int, channels: int) -> Image.Image:
        return self.read(index)

    def sides(self, index: int) -> tuple[int, int]:
        return self.read(index).size

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        return chain([self._name()], self.pictures.identify(indices))

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        return self.pictures.marks(indices)

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        return chain([self._name()], self.pictures.contents(indices))

    def _name(self) -> bytes:
        """Return bytes that distinguish these pictures from the published ones."""
        return self.derive.__name__.encode()


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Return the image at `factor` times its width and height."""
    width, height = (max(1, round(factor * side)) for side in image.size)
    steps = (image.width / width, 0, 0, 0, image.height / height, 0)
    return image.transform((width, height), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR)
