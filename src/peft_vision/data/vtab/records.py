"""This module reads encoded images that lie within larger files, such as TFRecords, each when it is needed."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular, read_middle
from peft_vision.data.decode import rgb
from peft_vision.data.opening import open_bytes
from peft_vision.data.pictures import Pictures
from peft_vision.data.reading import reading, short
from peft_vision.data.vtab.tfrecord import example, payloads


class Place(NamedTuple):
    """The place of an encoded image: its file, and its offset and length there in bytes."""

    file: Path
    offset: int
    length: int


class Encoded(Pictures):
    """Pictures with one encoded image at each of `places`; moving the folder does not change their fingerprint."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        place = self.places[index]
        return f"{place.file} (the image at byte {place.offset})"

    def read(self, index: int) -> Image.Image:
        with open_bytes(self._bytes(index)) as image:
            return rgb(image)

    def sides(self, index: int) -> tuple[int, int]:
        with open_bytes(self._bytes(index)) as image:
            return image.size

    def verify(self, index: int) -> None:
        with open_bytes(self._bytes(index)) as image:
            image.draft("RGB", (1, 1))  # JPEG only: an eighth of the pixels, yet every byte is read
            rgb(image)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            place = self.places[index]
            yield f"{place.file.name}\0{place.offset}\0{place.length}\0".encode()

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            yield self._bytes(index)

    def length(self, index: int) -> int:
        return self.places[index].length

    def middle(self, index: int) -> bytes:
        place = self.places[index]
        return read_middle(place.file, place.offset, place.length)

    def _bytes(self, index: int) -> bytes:
        """Open the file anew each time, because threads and loader processes must not share a position in it."""
        place = self.places[index]
        with open_regular(place.file) as file:
            file.seek(place.offset)
            return file.read(place.length)


def place_of(image: bytes, file: Path, payload: bytes, offset: int) -> Place:
    """Return the place of `image` in the payload that begins at `offset` of `file`. ValueError if it is not there."""
    if not isinstance(image, bytes):
        raise ValueError("a picture that is no bytes")
    return Place(file, offset + payload.index(image), len(image))


def images(
    files: Iterable[Path], image: str, *others: str
) -> Iterator[tuple[Place, dict[str, list[bytes] | np.ndarray]]]:
    """Yield the place of the feature `image` of each example, with all of its features; ConfigError if a named feature
    is missing."""
    for file in files:
        for offset, payload in payloads(file):
            try:
                features = example(payload)
            except ValueError as error:  # also for a name that is not UTF-8
                raise ConfigError(f"data.root: {file} holds {error}, at byte {offset}; fetch it again") from error
            if missing := [name for name in (image, *others) if not len(features.get(name, ()))]:
                found = short(", ".join(sorted(features))) or "none"
                raise ConfigError(f"data.root: {file} has no feature {missing[0]} at byte {offset}; it has {found}")
            with reading(file, f"records with a picture as {image}"):
                place = place_of(features[image][0], file, payload, offset)
            yield place, features
