"""This module reads images that are rows of one array in a packed file; all wanted rows are read at first use."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peft_vision.data.pictures import Labelled, Pictures

_ONE_READER = threading.Lock()  # only one of the threads that need the rows reads them


class Rows(Pictures):
    """Pictures at `rows` (n,), ascending, of the array in `file`. `fetch` returns these rows as (n, ...) of any form,
    or raises ConfigError; `image` converts one of them to a picture."""

    def __init__(
        self,
        file: Path,
        rows: np.ndarray,
        *,
        fetch: Callable[[Path, np.ndarray], np.ndarray],
        image: Callable[[np.ndarray], Image.Image],
    ) -> None:
        self.file = file
        self.rows = rows
        self._fetch = fetch
        self._image = image
        self._values: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.file} (image {self.rows[index]})"

    def read(self, index: int) -> Image.Image:
        return self._image(self._fetched()[index])

    def verify(self, index: int) -> None:
        self._fetched()

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        size = self.file.stat().st_size
        for row in self.rows[indices.numpy()].tolist():
            yield f"{self.file.name}\0{size}\0{row}\0".encode()

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        values = self._fetched()
        for index in indices.tolist():
            yield values[index].tobytes()

    def length(self, index: int) -> int:
        return self._fetched()[index].nbytes

    def middle(self, index: int) -> bytes:
        return hashlib.sha256(self._fetched()[index].tobytes()).digest()

    def only(self, parts: Sequence[Labelled]) -> list[Labelled]:
        """Return `parts` of these pictures, over a new `Rows` that holds no other images."""
        kept = np.unique(np.concatenate([part.indices.numpy() for part in parts]))
        pictures = Rows(self.file, self.rows[kept], fetch=self._fetch, image=self._image)
        places = [torch.from_numpy(np.searchsorted(kept, part.indices.numpy())) for part in parts]
        return [Labelled(pictures, place, part.labels) for place, part in zip(places, parts, strict=True)]

    def _fetched(self) -> np.ndarray:
        with _ONE_READER:
            if self._values is None:
                self._values = self._fetch(self.file, self.rows)
        return self._values


def picked(chunks: Iterable[np.ndarray], rows: np.ndarray, kept: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return `kept` applied to `rows` (n,), ascending, of an array (N, ...) that arrives in chunks of its rows."""
    found, start = [], 0
    for chunk in chunks:
        first, last = np.searchsorted(rows, [start, start + len(chunk)])
        found.append(kept(chunk[rows[first:last] - start]))
        start += len(chunk)
    return np.concatenate(found)
