"""This module opens encoded pictures and converts them to uint8 images of the channels that a backbone takes, at model
size.

squash   straight to height x width
crop     short side to floor(size / crop), then the centre size x size, as timm evaluates; where height and width
         differ, the smallest picture of the same proportions with room for floor(height / crop) x floor(width / crop),
         then the centre height x width
whole    the result of crop before its centre is cut out

Pictures are opened here and nowhere else: in a few formats, whatever the file's name, and never with another program.
Pillow hands PostScript to Ghostscript and knows some forty formats, most of them unused by data sets. Pictures opened
here are decoded within this process, by decoders of formats that pictures are published in.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Size, sides_of
from peft_vision.core.records import open_regular
from peft_vision.data.bands import Bands, OtherChannels, eight_bits, is_array, read_bands
from peft_vision.data.tiff import UnknownTiff

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO"),
    *("DDS", "DIB", "ICO", "PCX", "PSD", "QOI", "SGI", "TGA"),
)
"""The accepted formats by Pillow's names, the most frequent first; some builds of Pillow lack some of them."""
_LONGEST = 4096  # times the short side: resizing the short side of a longer picture would fill the memory
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
_FORMAT_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\x93NUMPY": "NumPy",
    b"PK\3\4": "NumPy archive",
}
Picture = TypeVar("Picture", Image.Image, Bands)
_WHITE = (255, 255, 255, 255)
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")


@contextmanager
def open_file(path: Path | str) -> Iterator[Image.Image]:
    """Yield the picture in a regular file before its pixels are read. Raises the errors that `decode.UNREADABLE`
    lists."""
    with open_regular(path) as file, _opened(file) as image:
        yield image


@contextmanager
def open_bytes(content: bytes) -> Iterator[Image.Image]:
    """Yield the picture encoded in `content` before its pixels are read. Raises the same errors as `open_file`."""
    with _opened(BytesIO(content)) as image:
        yield image


@cache
def endings() -> tuple[str, ...]:
    """Return the file name endings of these formats, in lower case and with the dot, such as .jpg."""
    return tuple(ending for ending, form in Image.registered_extensions().items() if form in _formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(form for form in FORMATS if form in Image.OPEN)


def _opened(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:  # its text names the open file object and no formats
        raise UnidentifiedImageError("no picture, or of no known format; JPEG, PNG and WebP are known") from error
    return _of_usual_shape(image)


def _of_usual_shape(image: Picture) -> Picture:
    width, height = image.size
    if max(image.size) > _LONGEST * min(image.size):
        raise ValueError(f"{width} x {height} pixels are too narrow for a picture")
    return image


def rgb(image: Image.Image) -> Image.Image:
    """Return the picture upright (EXIF) as 8-bit RGB: transparency over white, 16-bit grey scaled down, not clipped.

    This loads the given picture and may rotate it in place. ValueError for floating-point pixels and for grey values
    beyond 16 bits.
    """
    _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:  # a PNG may say that one colour is transparent
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode.startswith("I"):
        return _grey16(image).convert("RGB")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> None:
    ImageOps.exif_transpose(image, in_place=True)


def _grey16(image: Image.Image) -> Image.Image:
    return Image.fromarray(eight_bits(_values16(image), None))


def _values16(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values beyond 16 bits")
    return values.astype(np.uint16)


def picture_of(content: bytes, channels: int | None) -> Image.Image | Bands:
    """Return the picture in the file `content` upright, for a backbone that takes `channels`: RGB for 1 and 3, and with
    its own channels otherwise, as for None. Arrays and grey values of 16 bits keep their own. Raises the errors that
    `decode.UNREADABLE` lists."""
    if channels in (1, 3):
        with suppress(UnidentifiedImageError), open_bytes(content) as image:
            if not _is_deep(image):
                return rgb(image)
    unknown = None
    if is_array(content):
        try:
            return _of_usual_shape(read_bands(content, channels))
        except UnknownTiff as error:
            unknown = error
    try:
        with open_bytes(content) as image:
            return _channels_of(image, channels)
    except UnidentifiedImageError as error:
        raise unknown or error from error


def _is_deep(image: Image.Image) -> bool:
    """Return whether a picture has 16 bits, which Pillow cuts to 8, and for which there may be a full scale."""
    in_colours = isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode == "RGB"
    return image.mode.startswith("I") or (in_colours and max(image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]) > 8)


def _channels_of(image: Image.Image, channels: int | None) -> Image.Image | Bands:
    _upright(image)
    if image.mode.startswith("I"):
        return Bands(_values16(image)[..., None])
    if channels in (1, 3):
        return rgb(image)
    transparent = image.mode in _TRANSPARENT or "transparency" in image.info
    if transparent and not (image.mode == "LA" and channels == 2):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB"):
        image = rgb(image)
    values = np.asarray(image)
    return Bands(values[..., None] if values.ndim == 2 else values)


class Misfit(ConfigError):
    """The error for a picture or a mask that is whole but does not fit, which nothing leaves out: its `fault` in words
    that begin with the file's name, and a `remedy`. `count`: how many do not fit, of which this is the first."""

    def __init__(self, fault: str, remedy: str, *, count: int = 1, total: int | None = None) -> None:
        self.fault, self.remedy, self.count = fault, remedy, count
        more = f"; {count - 1:,} more of {total:,} do not fit" if count > 1 else ""
        super().__init__(f"data: {fault}{more}\n{remedy}")

    def among(self, count: int, total: int) -> "Misfit":
        """Return the error for `count` of a `total` that do not fit, of which this is the first."""
        return Misfit(self.fault, self.remedy, count=count, total=total)


@dataclass(frozen=True)
class Geometry:
    """A rule that maps a picture to `size` in pixels and `channels`; `interpolation` is a torchvision InterpolationMode
    value. A picture of other channels is refused (OtherChannels), as is one with colours where one channel is wanted.
    `full_scale`: the value of 16 bits that becomes 255; None: the lower 8 bits are dropped."""

    size: Size
    resize: str
    crop: float
    interpolation: str
    channels: int = field(default=3, repr=False)  # the text of a geometry is part of keys of the feature store
    full_scale: int | None = field(default=None, repr=False)

    def apply(self, image: Image.Image | Bands) -> np.ndarray:
        """Convert a picture to uint8 (C, H, W) of this size."""
        return self._fitted(self.seen(image), self._resampling)

    def whole(self, image: Image.Image | Bands) -> np.ndarray:
        """Convert a picture to uint8 (C, H, W), resized but not cropped; with crop, `apply` keeps its centre."""
        return self._resized(self.seen(image), self._resampling)

    def mask(self, classes: np.ndarray, *, whole: bool) -> np.ndarray:
        """Convert the mask of a picture, uint8 (H0, W0), as the picture is converted by `whole` or by `apply`, to uint8
        (1, H, W); each pixel has the class of the nearest one."""
        convert = self._resized if whole else self._fitted
        return convert(Image.fromarray(classes), Image.Resampling.NEAREST)

    def shown_part(self, width: int, height: int) -> tuple[slice, slice]:
        """Return the rows and the columns of a picture of this size that `apply` shows; with squash, all of it."""
        if self.resize == "squash":
            return slice(height), slice(width)
        parts = []
        for side, resized, kept in zip(
            (height, width), self.extent(width, height)[::-1], sides_of(self.size), strict=True
        ):
            first = middle(resized, kept)
            parts.append(slice(max(0, round(first * side / resized)), round((first + kept) * side / resized)))
        return parts[0], parts[1]

    def _resized(self, image: Image.Image | Bands, resampling: Image.Resampling) -> np.ndarray:
        if self.resize == "squash":
            return self._fitted(image, resampling)
        return _channels_first(image.resize(self.extent(*image.size), resampling))

    def _fitted(self, image: Image.Image | Bands, resampling: Image.Resampling) -> np.ndarray:
        height, width = sides_of(self.size)
        if self.resize == "squash":
            return _channels_first(image.resize((width, height), resampling))
        extent = self.extent(*image.size)
        left, top = middle(extent[0], width), middle(extent[1], height)
        return _channels_first(image.resize(extent, resampling).crop((left, top, left + width, top + height)))

    def seen(self, image: Image.Image | Bands) -> Image.Image | Bands:
        """Return a picture, RGB or of any channels, with the channels of this geometry. OtherChannels where it has
        others, or has colours and this geometry one channel."""
        if isinstance(image, Bands):
            return image.with_channels(self.channels, full_scale=self.full_scale)
        if self.channels == 3:
            return image
        if self.channels != 1:
            raise OtherChannels("a picture", 3, self.channels)
        red, green, blue = (np.asarray(channel) for channel in image.split())
        if not (np.array_equal(red, green) and np.array_equal(green, blue)):
            raise OtherChannels("a picture", 3, 1)
        return image.getchannel(0)

    def extent(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the resized picture before the crop, from the width and height of the picture."""
        if not isinstance(self.size, int):
            least_height, least_width = (int(side / self.crop) for side in self.size)
            ratio = min(height / least_height, width / least_width)
            return round(width / ratio), round(height / ratio)
        short = int(self.size / self.crop)
        return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)

    def whole_sides(self, width: int, height: int) -> tuple[int, int]:
        """Return height and width of what `whole` makes of a picture of this width and height."""
        return sides_of(self.size) if self.resize == "squash" else self.extent(width, height)[::-1]

    @property
    def _resampling(self) -> Image.Resampling:
        """Return Pillow's filter of the same name; Pillow antialiases every filter but nearest."""
        return Image.Resampling[self.interpolation.removesuffix("-exact").upper()]


def middle(length: int, size: int) -> int:
    """Return where the middle `size` of `length` pixels begins."""
    return round((length - size) / 2)


def _channels_first(image: Image.Image | Bands) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def format_of(content: bytes) -> str:
    """Return the format of one encoded picture, recognised by its first bytes."""
    return next((name for first, name in _FORMAT_BEGINNINGS.items() if content.startswith(first)), "unencoded")


def worded_formats(counts: Counter[str]) -> str:
    """Return the formats of pictures in one line, the most frequent first, such as "JPEG 998, PNG 2"; a single one
    stands without its count."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
