"""Encoded images that lie within larger files, such as those of TFRecords; each is read when it is asked for."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from peft_vision.data.decode import rgb
from peft_vision.data.pictures import Pictures


class Place(NamedTuple):
    """Of an encoded image: the file, and where in it, in bytes."""

    file: Path
    offset: int
    length: int


class Encoded(Pictures):
    """One image at each of `places`; a moved folder keeps its fingerprint."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        place = self.places[index]
        return f"{place.file} (the image at byte {place.offset})"

    def read(self, index: int) -> Image.Image:
        with Image.open(BytesIO(self._bytes(index))) as image:
            return rgb(image)

    def verify(self, index: int) -> None:
        with Image.open(BytesIO(self._bytes(index))) as image:
            image.draft("RGB", (1, 1))  # JPEG only: an eighth of the pixels, yet every byte is read
            rgb(image)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            place = self.places[index]
            yield f"{place.file.name}\0{place.offset}\0{place.length}\0".encode()

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            yield self._bytes(index)

    def _bytes(self, index: int) -> bytes:
        """Opened anew each time: threads and loader processes must not share a position in the file."""
        place = self.places[index]
        with place.file.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.length)


def place_of(image: bytes, file: Path, payload: bytes, offset: int) -> Place:
    """Of an image in the payload that begins at `offset` of `file`."""
    return Place(file, offset + payload.index(image), len(image))
