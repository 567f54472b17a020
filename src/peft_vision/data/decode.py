"""This module converts pictures of any kind to uint8 RGB, or grey, at model size.

squash   straight to size x size
crop     short side to floor(size / crop), then the centre size x size, as timm evaluates
whole    the result of crop before its centre is cut out
"""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from peft_vision.core.config import ConfigError

UNREADABLE = (
    OSError,  # truncated, unidentified, or gone
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""The exceptions that Pillow's decoders raise for a damaged file."""

_WHITE = (255, 255, 255, 255)
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")


def rgb(image: Image.Image) -> Image.Image:
    """Return the picture upright (EXIF) as 8-bit RGB: transparency over white, 16-bit grey scaled down, not clipped.

    This loads the given picture and may rotate it in place. ValueError for floating-point pixels and for grey values
    beyond 16 bits.
    """
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode.startswith("I"):
        return _grey16(image).convert("RGB")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _grey16(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values beyond 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


class Coloured(ConfigError):
    """The error for a picture with colours, called `name`, where the backbone takes grey ones."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"data: {name} has colours, and the backbone takes one channel; backbone.in_chans=3 takes three"
        )


@dataclass(frozen=True)
class Geometry:
    """A rule that maps a picture to size x size pixels of `channels`, 3 or 1; `interpolation` is a torchvision
    InterpolationMode value. A picture with colours is refused where one channel is wanted (Coloured)."""

    size: int
    resize: str
    crop: float
    interpolation: str
    channels: int = field(default=3, repr=False)  # the text of a geometry is part of keys of the feature store

    def apply(self, image: Image.Image) -> np.ndarray:
        """Convert an RGB picture to uint8 (C, size, size)."""
        size, image = self.size, self.seen(image)
        if self.resize == "squash":
            return _channels_first(image.resize((size, size), self._resampling))
        extent = self.extent(*image.size)
        left, top = (middle(length, size) for length in extent)
        return _channels_first(image.resize(extent, self._resampling).crop((left, top, left + size, top + size)))

    def whole(self, image: Image.Image) -> np.ndarray:
        """Convert an RGB picture to uint8 (C, H, W), resized but not cropped; with crop, `apply` keeps its centre."""
        return _channels_first(self.seen(image).resize(self.extent(*image.size), self._resampling))

    def seen(self, image: Image.Image) -> Image.Image:
        """Return an RGB picture with the channels of this geometry. Coloured for colours where it has one channel."""
        if self.channels == 3:
            return image
        red, green, blue = (np.asarray(channel) for channel in image.split())
        if not (np.array_equal(red, green) and np.array_equal(green, blue)):
            raise Coloured("a picture")
        return image.getchannel(0)

    def extent(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the resized picture before the crop, from the width and height of the picture."""
        short = int(self.size / self.crop)
        return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)

    @property
    def _resampling(self) -> Image.Resampling:
        """Return Pillow's filter of the same name; Pillow antialiases every filter but nearest."""
        return Image.Resampling[self.interpolation.removesuffix("-exact").upper()]


def middle(length: int, size: int) -> int:
    """Return where the middle `size` of `length` pixels begins."""
    return round((length - size) / 2)


def _channels_first(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
