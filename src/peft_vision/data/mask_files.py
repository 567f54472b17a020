"""This module reads masks, pictures whose pixels are classes, together with the pictures that they belong to.

A mask is an index or palette picture: its values, or its places in the palette, are what a `MaskCode` turns into
classes. A palette is never looked at. Colours are classes only where the code says which.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.records import read_regular
from peft_vision.data.decode import UNREADABLE, Geometry, Misfit, open_file
from peft_vision.data.pictures import Files
from peft_vision.data.sequences import Forwarded, Pictures

IGNORED = 255
MOST_CLASSES = 255
_OUTSIDE = 256
_MOST_VALUES = 2**16
_EXACT = ("PNG", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "PCX", "SGI")  # formats that keep every value
_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_SCALED = {"L;2": 85, "L;4": 17}  # how Pillow spreads grey values of 2 and 4 bits over 0 to 255
_NAMED = 5  # values that a message lists


@dataclass(frozen=True)
class MaskCode:
    """The meaning of the pixels of mask files. `values`: the class of each value, IGNORED for those that are ignored;
    other values are refused. `colors`: instead, the class of each colour (red, green, blue), for RGB masks."""

    classes: tuple[str, ...]
    values: Mapping[int, int]
    colors: Mapping[tuple[int, int, int], int] | None = None

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of what values and colours mean."""
        colors = None if self.colors is None else sorted(self.colors.items())
        return hashlib.sha256(repr((sorted(self.values.items()), colors)).encode()).hexdigest()

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(_MOST_VALUES, _OUTSIDE, dtype=np.uint16)
        for value, label in self.values.items():
            table[value] = label
        return table

    @cached_property
    def _color_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the colours as numbers, ascending, and the class of each."""
        pairs = sorted((red << 16 | green << 8 | blue, label) for (red, green, blue), label in self.colors.items())
        numbers, labels = zip(*pairs, strict=True)
        return np.array(numbers), np.array(labels, dtype=np.uint16)

    def read(self, image: Image.Image, name: str) -> np.ndarray:
        """Return the classes of an opened mask, uint8 (H, W). Misfit for a mask of another kind, or of other values
        than the code knows."""
        if image.format not in _EXACT:
            raise Misfit(f"{name} is a {image.format}, which does not keep values exactly", "save masks as PNG")
        if _is_spread(image):
            raise Misfit(
                f"{name} is a PGM of another largest value than 255, which is read as others", "save masks as PNG"
            )
        if self.colors is not None and image.mode in ("RGB", "RGBA"):
            return self._of_colors(np.asarray(image.convert("RGB")), name)
        if image.mode not in _INDEXED:
            raise _colourful(image, name)
        raw = image.tile[0][3] if image.tile else None
        scale = _SCALED.get(str(raw[0] if isinstance(raw, tuple) and raw else raw), 1)
        values = np.asarray(image)
        values = values.astype(np.uint8) if values.dtype == bool else values // scale
        found = np.flatnonzero(np.bincount(values.reshape(-1))) if values.dtype == np.uint8 else np.unique(values)
        unknown = [value for value in found.tolist() if not 0 <= value < _MOST_VALUES or self._table[value] == _OUTSIDE]
        if unknown:
            number = len(self.classes)
            raise Misfit(
                f"{name} holds {_listed('value', unknown)}, beside those of its {number} classes",
                f"data.ignore=[{','.join(map(str, unknown[:_NAMED]))}] takes no account of such pixels; "
                "data.classes names the values from 0, data.reduce_zero_label=true those from 1",
            )
        return self._table[values].astype(np.uint8)

    def _of_colors(self, pixels: np.ndarray, name: str) -> np.ndarray:
        numbers = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        known, labels = self._color_table
        places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        if (strange := numbers != known[places]).any():
            found = [f"{c >> 16},{c >> 8 & 255},{c & 255}" for c in np.unique(numbers[strange]).tolist()]
            raise Misfit(
                f"{name} holds {_listed('colour', found)}, not among the {len(known)} of data.colors",
                "data.colors names the class of every colour, or null for one that is ignored",
            )
        return labels[places].astype(np.uint8)


def _is_spread(image: Image.Image) -> bool:
    """Return whether Pillow spreads the values of a PGM over 0 to 255 or 65,535, since its largest value is neither."""
    decoder, arguments = (image.tile[0][0], image.tile[0][3]) if image.tile else ("", ())
    return decoder == "ppm" or (
        decoder == "ppm_plain" and image.mode in ("L", "I") and arguments[-1] not in (255, 65535)
    )


def _listed(what: str, found: list) -> str:
    listed = "; ".join(map(str, found[:_NAMED])) if what == "colour" else ", ".join(map(str, found[:_NAMED]))
    return f"the {what}{'s' if found[1:] else ''} {listed}{', ...' if found[_NAMED:] else ''}"


def _colourful(image: Image.Image, name: str) -> Misfit:
    """Return the error for a mask that is no index picture, with the conversion that it needs."""
    if image.mode not in ("RGB", "RGBA"):
        return Misfit(
            f"{name} is a picture of mode {image.mode}, should hold a class for each pixel",
            "save masks as index or palette PNGs, such as PIL.Image.fromarray(classes) of uint8 (height, width)",
        )
    red, green, blue = (np.asarray(channel) for channel in image.convert("RGB").split())
    if np.array_equal(red, green) and np.array_equal(green, blue):
        remedy = "its three channels are equal: PIL.Image.open(mask).getchannel(0).save(mask) keeps one as an index PNG"
    else:
        remedy = "data.colors says which colour is which class, such as {'128,64,128': road, '0,0,0': null}"
    return Misfit(f"{name} is an {image.mode} picture, should be an index or palette PNG", remedy)


class WithMasks(Forwarded):
    """Pictures with a mask of `num_classes` classes each."""

    masked = True

    def __init__(self, pictures: Pictures, num_classes: int) -> None:
        self.pictures = pictures
        self._shown = np.zeros((len(pictures), num_classes), dtype=bool)

    @abstractmethod
    def classes(self, index: int) -> np.ndarray:
        """Return the class of each pixel of a picture, uint8 (H, W), IGNORED where it is ignored."""

    @abstractmethod
    def mask_name(self, index: int) -> str:
        """Return the name that identifies a mask to the user."""

    @abstractmethod
    def mask_mark(self, index: int) -> bytes:
        """Return bytes that distinguish a mask from any other."""

    def __len__(self) -> int:
        return len(self.pictures)

    def at(self, index: int) -> tuple[Pictures, int]:
        return self.pictures, index

    def mask(self, index: int) -> np.ndarray:
        classes = self.classes(index)
        num_classes = self._shown.shape[1]
        self._shown[index] = np.bincount(classes.reshape(-1), minlength=num_classes)[:num_classes] > 0
        return classes

    def shown(self, indices: Tensor) -> np.ndarray:
        return self._shown[indices.numpy()].any(axis=0)

    def shaped(self, index: int, geometry: Geometry, *, whole: bool = False) -> np.ndarray:
        picture = self.with_channels(index, geometry.channels)
        mask = self._fitting(index, picture.size)
        return np.concatenate([self._made(picture, index, geometry, whole), geometry.mask(mask, whole=whole)])

    def verify(self, index: int) -> None:
        self.pictures.verify(index)
        self._fitting(index, self.read(index).size)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        """Identify pictures as they are without masks, and masks by every byte, as labels are."""
        for index in indices.tolist():
            yield from self.pictures.identify(torch.tensor([index]))
            yield self.mask_mark(index)

    def marks(self, indices: Tensor) -> Iterable[str | bytes]:
        return self.pictures.marks(indices)

    def _fitting(self, index: int, sides: tuple[int, int]) -> np.ndarray:
        """Return the mask of a picture. Misfit unless it has the width and height of the picture, `sides`."""
        classes = self.mask(index)
        height, width = classes.shape
        if (width, height) != sides:
            raise Misfit(
                f"{self.mask_name(index)} has {width} x {height} pixels, and its picture {sides[0]} x {sides[1]}",
                "a mask has the width and the height of its picture, as that is shown upright",
            )
        return classes


class MaskedPictures(WithMasks):
    """Pictures with the mask in the file of the same index in `masks`, whose values `code` explains."""

    def __init__(self, pictures: Pictures, masks: Files, code: MaskCode) -> None:
        super().__init__(pictures, len(code.classes))
        self.masks = masks
        self.code = code

    def classes(self, index: int) -> np.ndarray:
        name = self.mask_name(index)
        try:
            with open_file(self.masks.root / self.masks.paths[index]) as image:
                return self.code.read(image, name)
        except UNREADABLE as error:
            raise ValueError(f"its mask {name}: {one_line(error)}") from error

    def mask_name(self, index: int) -> str:
        return self.masks.name(index)

    def mask_mark(self, index: int) -> bytes:
        path = self.masks.paths[index]
        try:
            content = read_regular(self.masks.root / path)
        except OSError as error:
            raise ConfigError(f"data: cannot read {self.masks.name(index)} ({one_line(error)})") from error
        mark = f"{path}\0{hashlib.sha256(content).hexdigest()}\0{self.code.digest}\0"
        return mark.encode(errors="surrogateescape")


class MaskArrays(WithMasks):
    """Pictures with masks that lie in memory, uint8 (n, H, W), of `num_classes` classes."""

    def __init__(self, pictures: Pictures, masks: np.ndarray, num_classes: int) -> None:
        super().__init__(pictures, num_classes)
        self.masks = masks

    def classes(self, index: int) -> np.ndarray:
        return self.masks[index]

    def mask_name(self, index: int) -> str:
        return f"mask {index}"

    def mask_mark(self, index: int) -> bytes:
        return self.masks[index].tobytes()
