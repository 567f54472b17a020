"""This module holds pictures before they are decoded to images at model size, as files or arrays, and their labels."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peft_vision.core.output import shown
from peft_vision.core.records import read_middle, read_regular
from peft_vision.data.decode import rgb
from peft_vision.data.opening import open_file


class Pictures(ABC):
    """A sequence of pictures; reading a corrupt one raises one of the errors that `decode.UNREADABLE` lists."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name that identifies a picture to the user."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return the picture in mode RGB, not resized."""

    def sides(self, index: int) -> tuple[int, int]:
        """Return width and height, at less cost than `read` where possible: then as stored, which swaps them for a
        picture that EXIF turns by 90 degrees."""
        return self.read(index).size

    @abstractmethod
    def verify(self, index: int) -> None:
        """Raise what `read` would raise, at less cost."""

    @abstractmethod
    def identify(self, indices: Tensor) -> Iterable[bytes]:
        """Return bytes that distinguish these pictures from any others, for the fingerprint."""

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        """Return, for each picture, a mark that distinguishes it from all others: its location, or a value made from
        its bytes."""
        return (self.name(index) for index in indices.tolist())

    @abstractmethod
    def contents(self, indices: Tensor) -> Iterable[bytes]:
        """Yield all bytes that these pictures are read from, for a key that must not overlook a change."""

    def length(self, index: int) -> int | None:
        """Return how many bytes a picture is read from, at little cost; None if that is unknown, so that duplicates are
        not searched for."""
        return None

    def middle(self, index: int) -> bytes:
        """Return some of a picture's bytes or a hash, at little cost: equal for identical pictures, seldom for
        different ones."""
        return b""


class Files(Pictures):
    """Image files below `root`; `paths` are relative to it, so that a moved folder keeps its fingerprint."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root = root
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return shown(self.root / self.paths[index])

    def read(self, index: int) -> Image.Image:
        with open_file(self.root / self.paths[index]) as image:
            return rgb(image)

    def sides(self, index: int) -> tuple[int, int]:
        with open_file(self.root / self.paths[index]) as image:
            return image.size

    def verify(self, index: int) -> None:
        with open_file(self.root / self.paths[index]) as image:
            image.draft("RGB", (1, 1))  # JPEG only: an eighth of the pixels, yet every byte of the file is read
            rgb(image)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            path = self.root / self.paths[index]
            name = f"{Path(self.paths[index]).as_posix()}\0{path.stat().st_size}\0"
            yield name.encode(errors="surrogateescape")  # keeps the bytes of a name that is not UTF-8

    def marks(self, indices: Tensor) -> Iterable[str]:
        root = self.root.resolve()
        return (f"{root}/{self.paths[index]}" for index in indices.tolist())  # Path objects would take ImageNet 10 s

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            yield read_regular(self.root / self.paths[index])

    def length(self, index: int) -> int:
        return os.stat(self.root / self.paths[index]).st_size

    def middle(self, index: int) -> bytes:
        return read_middle(self.root / self.paths[index], 0, self.length(index))


class Arrays(Pictures):
    """Pictures that lie in memory as uint8 (n, H, W, 3); none of them can be corrupt."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.images[index]))

    def sides(self, index: int) -> tuple[int, int]:
        height, width = self.images.shape[1:3]
        return width, height

    def verify(self, index: int) -> None:
        pass

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for chunk in indices.split(1024):
            yield np.ascontiguousarray(self.images[chunk.numpy()]).tobytes()

    def marks(self, indices: Tensor) -> Iterable[bytes]:
        return (self.middle(index) for index in indices.tolist())

    contents = identify

    def length(self, index: int) -> int:
        return self.images[index].nbytes

    def middle(self, index: int) -> bytes:
        return hashlib.sha256(np.ascontiguousarray(self.images[index])).digest()


class Joined(Pictures):
    """The concatenation of two sets of pictures: those of `first`, then those of `second`."""

    def __init__(self, first: Pictures, second: Pictures) -> None:
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def name(self, index: int) -> str:
        pictures, index = self._at(index)
        return pictures.name(index)

    def read(self, index: int) -> Image.Image:
        pictures, index = self._at(index)
        return pictures.read(index)

    def sides(self, index: int) -> tuple[int, int]:
        pictures, index = self._at(index)
        return pictures.sides(index)

    def verify(self, index: int) -> None:
        pictures, index = self._at(index)
        pictures.verify(index)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for pictures, part_indices in self._stretches(indices):
            yield from pictures.identify(part_indices)

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        for pictures, part_indices in self._stretches(indices):
            yield from pictures.marks(part_indices)

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        for pictures, part_indices in self._stretches(indices):
            yield from pictures.contents(part_indices)

    def length(self, index: int) -> int | None:
        pictures, index = self._at(index)
        return pictures.length(index)

    def middle(self, index: int) -> bytes:
        pictures, index = self._at(index)
        return pictures.middle(index)

    def _at(self, index: int) -> tuple[Pictures, int]:
        start = len(self.first)
        return (self.first, index) if index < start else (self.second, index - start)

    def _stretches(self, indices: Tensor) -> Iterator[tuple[Pictures, Tensor]]:
        """Yield runs of consecutive indices that belong to the same part, with that part."""
        start = len(self.first)
        _, lengths = torch.unique_consecutive(indices >= start, return_counts=True)
        for stretch in indices.split(lengths.tolist()) if len(indices) else ():
            yield (self.first, stretch) if stretch[0] < start else (self.second, stretch - start)


@dataclass(frozen=True)
class Labelled:
    """A selection of `pictures` by `indices` (n,), with their `labels` (n,) int64."""

    pictures: Pictures
    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, positions: Tensor) -> "Labelled":
        """Return the pictures at `positions` in this selection, not in `pictures`."""
        return Labelled(self.pictures, self.indices[positions], self.labels[positions])

    def joined(self, other: "Labelled") -> "Labelled":
        """Return these pictures followed by the `other` ones, which have the same classes."""
        pictures = Joined(self.pictures, other.pictures)
        indices = torch.cat([self.indices, other.indices + len(self.pictures)])
        return Labelled(pictures, indices, torch.cat([self.labels, other.labels]))

    def digest(self) -> str:
        """Return the sha256 of pictures, labels and the selection."""
        sha = hashlib.sha256()
        sha.update(self.indices.numpy().astype("<i8").tobytes())
        sha.update(self.labels.numpy().astype("<i8").tobytes())
        for part in self.pictures.identify(self.indices):
            sha.update(part)
        return sha.hexdigest()


def labelled(pictures: Pictures, labels: Iterable[int]) -> Labelled:
    """Return all of `pictures` with their labels."""
    return Labelled(pictures, torch.arange(len(pictures)), torch.as_tensor(np.asarray(labels), dtype=torch.int64))
