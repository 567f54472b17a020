"""This module says what a sequence of pictures is, before they are decoded to images at model size, and makes sequences
of others."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peft_vision.data.bands import Bands, OtherChannels
from peft_vision.data.decode import Geometry


class Pictures(ABC):
    """A sequence of pictures; reading a corrupt one raises one of the errors that `decode.UNREADABLE` lists. If they
    are `masked`, a mask belongs to each, and `shaped` has it as one more channel, the last."""

    masked = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name that identifies a picture to the user."""

    def path(self, index: int) -> str | None:
        """Return where the file of a picture lies below the folder of its data set; None if it has no file of its
        own."""
        return None

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return the picture in mode RGB, not resized; of another number of channels, a preview for people."""

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        """Return the picture for a backbone that takes `channels`, not resized; it may have another number, which a
        geometry refuses."""
        return self.read(index)

    def shaped(self, index: int, geometry: Geometry, *, whole: bool = False) -> np.ndarray:
        """Return the picture as `geometry` makes it, uint8 (C, H, W), or as it is before its centre is cut out.
        OtherChannels, with the picture's name, for one that has not the channels of the geometry."""
        return self._made(self.with_channels(index, geometry.channels), index, geometry, whole)

    def _made(self, picture: Image.Image | Bands, index: int, geometry: Geometry, whole: bool) -> np.ndarray:
        try:
            return geometry.whole(picture) if whole else geometry.apply(picture)
        except OtherChannels as error:
            raise OtherChannels(self.name(index), error.found, error.wanted) from error

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of a picture at its own size, uint8 (H, W). Only for pictures that are `masked`."""
        raise NotImplementedError

    def shown(self, indices: Tensor) -> np.ndarray:
        """Return, as booleans (C,), which classes the masks of these pictures show, as far as they have been read. Only
        for pictures that are `masked`."""
        raise NotImplementedError

    def sides(self, index: int) -> tuple[int, int]:
        """Return width and height, at less cost than `read` where possible: then as stored, which swaps them for a
        picture that EXIF turns by 90 degrees."""
        return self.read(index).size

    def upright_sides(self, index: int) -> tuple[int, int]:
        """Return width and height of the picture as `read` returns it."""
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


class Forwarded(Pictures):
    """Pictures that are those of other objects."""

    @abstractmethod
    def at(self, index: int) -> tuple[Pictures, int]:
        """Return the object that holds a picture, and the index of the picture there."""

    def name(self, index: int) -> str:
        pictures, index = self.at(index)
        return pictures.name(index)

    def path(self, index: int) -> str | None:
        pictures, index = self.at(index)
        return pictures.path(index)

    def read(self, index: int) -> Image.Image:
        pictures, index = self.at(index)
        return pictures.read(index)

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        pictures, index = self.at(index)
        return pictures.with_channels(index, channels)

    def sides(self, index: int) -> tuple[int, int]:
        pictures, index = self.at(index)
        return pictures.sides(index)

    def upright_sides(self, index: int) -> tuple[int, int]:
        pictures, index = self.at(index)
        return pictures.upright_sides(index)

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

        self.masked = first.masked

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def shaped(self, index: int, geometry: Geometry, *, whole: bool = False) -> np.ndarray:
        pictures, index = self.at(index)
        return pictures.shaped(index, geometry, whole=whole)

    def mask(self, index: int) -> np.ndarray:
        pictures, index = self.at(index)
        return pictures.mask(index)

    def shown(self, indices: Tensor) -> np.ndarray:
        return np.any([pictures.shown(part) for pictures, part in self._stretches(indices)], axis=0)

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
