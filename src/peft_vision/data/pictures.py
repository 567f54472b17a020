"""This module holds pictures before they are decoded to images at model size, as files or arrays, and their labels."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from peft_vision.core.output import shown
from peft_vision.core.records import read_middle, read_regular
from peft_vision.data.bands import Bands
from peft_vision.data.decode import open_bytes, open_file, picture_of, rgb


class Pictures(ABC):
    """A sequence of pictures; reading a corrupt one raises one of the errors that `decode.UNREADABLE` lists."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name that identifies a picture to the user."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return the picture in mode RGB, not resized; of another number of channels, a preview for people."""

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        """Return the picture for a backbone that takes `channels`, not resized; it may have another number, which a
        geometry refuses."""
        return self.read(index)

    def sides(self, index: int) -> tuple[int, int]:
        """Return width and height, at less cost than `read` where possible: then as stored, which swaps them for a
        picture that EXIF turns by 90 degrees."""
        return self.read(index).size

    @abstractmethod
    def verify(self, index: int) -> None:
        """Raise what `read` would raise, at less cost. OtherChannels for a picture that cannot be shown in colours."""

    @abstractmethod
    def identify(self, indices: Tensor) -> Iterable[bytes]:
        """Return bytes that distinguish these pictures from any others, for the fingerprint."""

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        """Return, for each picture, a mark that distinguishes it from all others: its location, or a value made from
        its bytes."""
        return (self.name(index) for index in indices.tolist())

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return the bytes that a picture is read from; one that is derived from another has the bytes of the other."""

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        """Yield all bytes that decide how these pictures look, for a key that must not overlook a change."""
        return map(self.content, indices.tolist())

    def length(self, index: int) -> int | None:
        """Return how many bytes a picture is read from, at little cost; None if that is unknown, so that duplicates are
        not searched for."""
        return None

    def middle(self, index: int) -> bytes:
        """Return some of a picture's bytes or a hash, at little cost: equal for identical pictures, seldom for
        different ones."""
        return b""


class EncodedPictures(Pictures):
    """Pictures in an encoded form such as JPEG, in files of their own or within larger ones."""

    def opened(self, index: int) -> AbstractContextManager[Image.Image]:
        """Yield a picture before its pixels are read."""
        return open_bytes(self.content(index))

    def read(self, index: int) -> Image.Image:
        with self.opened(index) as image:
            return rgb(image)

    def sides(self, index: int) -> tuple[int, int]:
        with self.opened(index) as image:
            return image.size

    def verify(self, index: int) -> None:
        with self.opened(index) as image:
            image.draft("RGB", (1, 1))  # JPEG only: an eighth of the pixels, yet every byte of the file is read
            rgb(image)


class Files(EncodedPictures):
    """Image files below `root`; `paths` are relative to it, so that a moved folder keeps its fingerprint."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root = root
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return shown(self.root / self.paths[index])

    def opened(self, index: int) -> AbstractContextManager[Image.Image]:
        return open_file(self.root / self.paths[index])

    def read(self, index: int) -> Image.Image:
        picture = self.with_channels(index, 3)
        return picture.preview() if isinstance(picture, Bands) else picture

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        if channels in (1, 3):
            try:
                with self.opened(index) as image:
                    if not image.mode.startswith("I"):
                        return rgb(image)
            except UnidentifiedImageError:  # an array, or nothing that is known
                pass
        return picture_of(self.content(index), channels)

    def sides(self, index: int) -> tuple[int, int]:
        try:
            return super().sides(index)
        except UnidentifiedImageError:
            return picture_of(self.content(index), None).size

    def verify(self, index: int) -> None:
        try:
            super().verify(index)
        except UnidentifiedImageError:
            picture = picture_of(self.content(index), 3)
            if isinstance(picture, Bands):
                picture.with_channels(3, full_scale=None)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            path = self.root / self.paths[index]
            name = f"{Path(self.paths[index]).as_posix()}\0{path.stat().st_size}\0"
            yield name.encode(errors="surrogateescape")  # keeps the bytes of a name that is not UTF-8

    def marks(self, indices: Tensor) -> Iterable[str]:
        root = self.root.resolve()
        return (f"{root}/{self.paths[index]}" for index in indices.tolist())  # Path objects would take ImageNet 10 s

    def content(self, index: int) -> bytes:
        return read_regular(self.root / self.paths[index])

    def length(self, index: int) -> int:
        return os.stat(self.root / self.paths[index]).st_size

    def middle(self, index: int) -> bytes:
        return read_middle(self.root / self.paths[index], 0, self.length(index))


class Forwarded(Pictures):
    """Pictures that are those of other objects."""

    @abstractmethod
    def at(self, index: int) -> tuple[Pictures, int]:
        """Return the object that holds a picture, and the index of the picture there."""

    def name(self, index: int) -> str:
        pictures, index = self.at(index)
        return pictures.name(index)

    def read(self, index: int) -> Image.Image:
        pictures, index = self.at(index)
        return pictures.read(index)

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        pictures, index = self.at(index)
        return pictures.with_channels(index, channels)

    def sides(self, index: int) -> tuple[int, int]:
        pictures, index = self.at(index)
        return pictures.sides(index)

    def verify(self, index: int) -> None:
        pictures, index = self.at(index)
        pictures.verify(index)

    def content(self, index: int) -> bytes:
        pictures, index = self.at(index)
        return pictures.content(index)

    def length(self, index: int) -> int | None:
        pictures, index = self.at(index)
        return pictures.length(index)

    def middle(self, index: int) -> bytes:
        pictures, index = self.at(index)
        return pictures.middle(index)


class Joined(Forwarded):
    """The concatenation of two sets of pictures: those of `first`, then those of `second`."""

    def __init__(self, first: Pictures, second: Pictures) -> None:
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def at(self, index: int) -> tuple[Pictures, int]:
        start = len(self.first)
        return (self.first, index) if index < start else (self.second, index - start)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        return chain.from_iterable(pictures.identify(part) for pictures, part in self._stretches(indices))

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        return chain.from_iterable(pictures.marks(part) for pictures, part in self._stretches(indices))

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        return chain.from_iterable(pictures.contents(part) for pictures, part in self._stretches(indices))

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

    def contents(self) -> Iterator[bytes]:
        """Yield the bytes that each picture is read from."""
        return map(self.pictures.content, self.indices.tolist())

    def sampled(self, most: int) -> "Labelled":
        """Return at most `most` of these pictures, evenly spread."""
        return self if len(self) <= most else self.subset(torch.arange(most) * len(self) // most)

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
