"""Pictures before they are images at model size: files, or arrays already in memory, and their labels."""

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

from peft_vision.data.decode import rgb
from peft_vision.data.opening import open_file
from peft_vision.printable import shown
from peft_vision.regular import read_middle, read_regular


class Pictures(ABC):
    """Pictures by position; reading one raises what `decode.UNREADABLE` lists when it is corrupt."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """How to tell the user which picture."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Mode RGB, whole size."""

    def sides(self, index: int) -> tuple[int, int]:
        """Width and height, at less cost than `read` where that can be: then as stored, which of a picture that lies on
        its side is the other way round than `read`'s."""
        return self.read(index).size

    @abstractmethod
    def verify(self, index: int) -> None:
        """Raises what `read` would raise, at less cost."""

    @abstractmethod
    def identify(self, indices: Tensor) -> Iterable[bytes]:
        """Return bytes that distinguish these pictures from any others, for the fingerprint."""

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        """Return for each picture what distinguishes it from all others: where it lies, or its bytes."""
        return (self.name(index) for index in indices.tolist())

    @abstractmethod
    def contents(self, indices: Tensor) -> Iterable[bytes]:
        """All that these pictures are read from, for a key that must not overlook a change."""

    def length(self, index: int) -> int | None:
        """Return how many bytes a picture is read from, at little cost; None where that is not to be had, so that
        nobody looks for its twin."""
        return None

    def middle(self, index: int) -> bytes:
        """Return some of these bytes, at little cost: equal where all of them are, and seldom elsewhere."""
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
            yield name.encode(errors="surrogateescape")  # a name may be no UTF-8: its bytes, then

    def marks(self, indices: Tensor) -> Iterable[str]:
        root = self.root.resolve()
        return (f"{root}/{self.paths[index]}" for index in indices.tolist())  # a Path each would cost ImageNet 10 s

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            yield read_regular(self.root / self.paths[index])

    def length(self, index: int) -> int:
        return os.stat(self.root / self.paths[index]).st_size

    def middle(self, index: int) -> bytes:
        return read_middle(self.root / self.paths[index], 0, self.length(index))


class Arrays(Pictures):
    """uint8 (n, H, W, 3) in memory; nothing here can be corrupt."""

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
    """Those of `first`, then those of `second`."""

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
        for pictures, own in self._stretches(indices):
            yield from pictures.identify(own)

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        for pictures, own in self._stretches(indices):
            yield from pictures.marks(own)

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        for pictures, own in self._stretches(indices):
            yield from pictures.contents(own)

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
        """Neighbours in `indices` that are of one part, together."""
        start = len(self.first)
        _, lengths = torch.unique_consecutive(indices >= start, return_counts=True)
        for stretch in indices.split(lengths.tolist()) if len(indices) else ():
            yield (self.first, stretch) if stretch[0] < start else (self.second, stretch - start)


@dataclass(frozen=True)
class Labelled:
    """Some of `pictures`, by `indices` (n,), with their `labels` (n,) int64."""

    pictures: Pictures
    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, positions: Tensor) -> "Labelled":
        """Those at `positions` in this set, not in `pictures`."""
        return Labelled(self.pictures, self.indices[positions], self.labels[positions])

    def joined(self, other: "Labelled") -> "Labelled":
        """These, then the `other` ones, of the same classes."""
        pictures = Joined(self.pictures, other.pictures)
        indices = torch.cat([self.indices, other.indices + len(self.pictures)])
        return Labelled(pictures, indices, torch.cat([self.labels, other.labels]))

    def digest(self) -> str:
        """sha256 of pictures, labels and the choice of both."""
        sha = hashlib.sha256()
        sha.update(self.indices.numpy().astype("<i8").tobytes())
        sha.update(self.labels.numpy().astype("<i8").tobytes())
        for part in self.pictures.identify(self.indices):
            sha.update(part)
        return sha.hexdigest()


def labelled(pictures: Pictures, labels: Iterable[int]) -> Labelled:
    """All of `pictures`."""
    return Labelled(pictures, torch.arange(len(pictures)), torch.as_tensor(np.asarray(labels), dtype=torch.int64))
