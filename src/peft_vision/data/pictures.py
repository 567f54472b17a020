"""This module holds pictures before they are decoded to images at model size, as files, and their labels.

The labels of n pictures are of one of these kinds:

classes  int64 (n,)       the class of each picture
several  uint8 (n, C)     1 where a picture has a label; it may have none
numbers  float32 (n, T)   the values of T targets
masks    uint8 (n, H, W)  the class of each pixel, 255 where it is ignored; read with the pictures, at their size
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from peft_vision.core.output import shown
from peft_vision.core.records import read_middle, read_regular
from peft_vision.data.bands import Bands
from peft_vision.data.decode import open_bytes, open_file, picture_of, rgb
from peft_vision.data.sequences import Joined, Pictures

_LYING = 5  # the first of EXIF's orientations that swap width and height
LabelKind = Literal["classes", "several", "numbers", "masks"]


class EncodedPictures(Pictures):
    """Pictures in an encoded form such as JPEG, in files of their own or within larger ones."""

    def opened(self, index: int) -> AbstractContextManager[Image.Image]:
        """Yield a picture before its pixels are read."""
        return open_bytes(self.content(index))

    def read(self, index: int) -> Image.Image:
        picture = self.with_channels(index, 3)
        return picture.preview() if isinstance(picture, Bands) else picture

    def with_channels(self, index: int, channels: int) -> Image.Image | Bands:
        return picture_of(self.content(index), channels)

    def sides(self, index: int) -> tuple[int, int]:
        try:
            with self.opened(index) as image:
                return image.size
        except UnidentifiedImageError:  # an array, or nothing that is known
            return picture_of(self.content(index), None).size

    def upright_sides(self, index: int) -> tuple[int, int]:
        try:
            with self.opened(index) as image:
                # of a TIFF Pillow says the upright size at once
                turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) >= _LYING
                return image.size[::-1] if turned else image.size
        except UnidentifiedImageError:
            return picture_of(self.content(index), None).size

    def verify(self, index: int) -> None:
        try:
            with self.opened(index) as image:
                image.draft("RGB", (1, 1))  # JPEG only: an eighth of the pixels, yet every byte of the file is read
                rgb(image)
        except UnidentifiedImageError:
            picture = picture_of(self.content(index), 3)
            if isinstance(picture, Bands):
                picture.with_channels(3, full_scale=None)


class Files(EncodedPictures):
    """Image files below `root`; `paths` are relative to it, so that a moved folder keeps its fingerprint."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root = root
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return shown(self.root / self.paths[index])

    def path(self, index: int) -> str:
        return Path(self.paths[index]).as_posix()

    def opened(self, index: int) -> AbstractContextManager[Image.Image]:
        return open_file(self.root / self.paths[index])

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            path = self.root / self.paths[index]
            name = f"{Path(self.paths[index]).as_posix()}\0{_size(path)}\0"
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


def _size(path: Path) -> int:
    """Return the bytes of a file, -1 if it is gone: what reads it says so, or leaves it out."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


@dataclass(frozen=True)
class Labelled:
    """A selection of `pictures` by `indices` (n,), with their `labels`. The labels of masked pictures are zeros (n,)
    here, since the masks are read with the pictures."""

    pictures: Pictures
    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels_are(self) -> LabelKind:
        """Return the kind of the labels."""
        if self.pictures.masked:
            return "masks"
        if self.labels.is_floating_point():
            return "numbers"
        return "several" if self.labels.ndim == 2 else "classes"

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
        labels = self.labels.numpy()
        sha.update(labels.astype(labels.dtype.newbyteorder("<")).tobytes())
        for part in self.pictures.identify(self.indices):
            sha.update(part)
        return sha.hexdigest()


def labelled(pictures: Pictures, labels: Iterable[int] | np.ndarray) -> Labelled:
    """Return all of `pictures` with their labels: a class each (n,), several (n, C) of 0 and 1, or numbers (n, T) of a
    floating-point type."""
    values = np.asarray(labels)
    dtype = torch.int64 if values.ndim == 1 else torch.float32 if values.dtype.kind == "f" else torch.uint8
    return Labelled(pictures, torch.arange(len(pictures)), torch.as_tensor(values, dtype=dtype))
