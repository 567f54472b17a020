"""This module holds pictures that a benchmark derived from published ones; they are derived again whenever they are
read."""

from collections.abc import Callable, Iterable

from PIL import Image
from torch import Tensor

from peft_vision.data.pictures import Pictures


class Derived(Pictures):
    """The result of `derive`, from RGB to RGB, for each of `pictures`."""

    def __init__(self, pictures: Pictures, derive: Callable[[Image.Image], Image.Image]) -> None:
        self.pictures = pictures
        self.derive = derive

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return self.pictures.name(index)

    def read(self, index: int) -> Image.Image:
        return self.derive(self.pictures.read(index))

    def verify(self, index: int) -> None:
        self.pictures.verify(index)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        return self._told_apart(self.pictures.identify(indices))

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        return self.pictures.marks(indices)

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        return self._told_apart(self.pictures.contents(indices))

    def length(self, index: int) -> int | None:
        return self.pictures.length(index)

    def middle(self, index: int) -> bytes:
        return self.pictures.middle(index)

    def _told_apart(self, texts: Iterable[bytes]) -> Iterable[bytes]:
        """Yield bytes that distinguish these pictures from the published ones."""
        yield self.derive.__name__.encode()
        yield from texts
