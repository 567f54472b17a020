"""This module holds pictures of any number of channels, and reads them from the files that such pictures come in.

    x.npy    (H, W), (H, W, C) or (C, H, W) of uint8 or uint16
    x.npz    one such array
    x.tif    any number of samples a pixel (tiff.py)

Where both ends of an array could be the channels, the last one is. Values of 16 bits become 8 bits by dropping the
lower ones, or by a full scale that becomes 255, above which values are cut off.
"""

import zipfile
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.preprocessing import MOST_CHANNELS
from peft_vision.data.numpy_files import read_values
from peft_vision.data.reading import BROKEN
from peft_vision.data.tiff import LARGEST_IMAGE, MOST_PIXELS, UnknownTiff, is_tiff, read_tiff

ARRAY_ENDINGS = (".npy", ".npz")
_NUMPY, _ARCHIVE = b"\x93NUMPY", b"PK\x03\x04"


class OtherChannels(ConfigError):
    """The error for a picture, called `name`, whose number of channels is not the one that the backbone takes."""

    def __init__(self, name: str, found: int, wanted: int) -> None:
        self.found, self.wanted = found, wanted
        if (found, wanted) == (3, 1):
            text = "has colours, and the backbone takes one channel; backbone.in_chans=3 takes three"
        else:
            text = f"has {counted(found)}, and the backbone takes {wanted} (backbone.in_chans)"
        super().__init__(f"data: {name} {text}")


def counted(channels: int) -> str:
    """Return the number in words, such as 1 channel or 13 channels."""
    return f"{channels} channel" if channels == 1 else f"{channels} channels"


@dataclass(frozen=True)
class Bands:
    """A picture as `values` (H, W, C), uint8 or uint16, with the methods of Pillow's images that a geometry asks for:
    8-bit values of each channel are resized by Pillow, as those of a picture in colours are."""

    values: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""
        height, width = self.values.shape[:2]
        return width, height

    @property
    def channels(self) -> int:
        """Return C."""
        return self.values.shape[2]

    def resize(self, size: tuple[int, int], resampling: Image.Resampling) -> "Bands":
        """Return these 8-bit values at another width and height."""
        layers = (Image.fromarray(np.ascontiguousarray(layer)) for layer in np.moveaxis(self.values, -1, 0))
        return Bands(np.stack([np.asarray(layer.resize(size, resampling)) for layer in layers], axis=-1))

    def crop(self, box: tuple[int, int, int, int]) -> "Bands":
        """Return the part from left and top to right and bottom."""
        left, top, right, bottom = box
        return Bands(self.values[top:bottom, left:right])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)

    def with_channels(self, wanted: int, *, full_scale: int | None) -> "Bands":
        """Return the picture in 8 bits with the channels that a backbone takes: a single one stands for three, and
        three equal ones for one. OtherChannels for another number."""
        values = self.values if self.values.dtype == np.uint8 else eight_bits(self.values, full_scale)
        if self.channels == wanted:
            return Bands(values)
        if self.channels == 1 and wanted == 3:
            return Bands(np.repeat(values, 3, axis=-1))
        if self.channels == 3 and wanted == 1 and (values == values[..., :1]).all():
            return Bands(values[..., :1])
        raise OtherChannels("a picture", self.channels, wanted)

    def preview(self) -> Image.Image:
        """Return the first three channels, or the first one in grey, as an RGB picture for people."""
        shown = self.values[..., :3] if self.channels >= 3 else np.repeat(self.values[..., :1], 3, axis=-1)
        return Image.fromarray(np.ascontiguousarray(shown if shown.dtype == np.uint8 else eight_bits(shown, None)))


def eight_bits(values: np.ndarray, full_scale: int | None) -> np.ndarray:
    """Return uint16 values as uint8: their upper 8 bits, or, rounded, their share of `full_scale`, times 255."""
    if full_scale is None:
        return (values >> 8).astype(np.uint8)
    share = np.minimum(values, full_scale).astype(np.uint32)
    return ((share * 255 + full_scale // 2) // full_scale).astype(np.uint8)


def is_array(content: bytes) -> bool:
    """Return whether a file begins as those of NumPy and TIFF do."""
    return content.startswith((_NUMPY, _ARCHIVE)) or is_tiff(content)


def read_bands(content: bytes, channels: int | None) -> Bands:
    """Return the picture in a file of `is_array`; `channels` says which axis of an array they are where both ends could
    be. ValueError for a damaged file, and for one that holds no picture; UnknownTiff as `read_tiff`."""
    try:
        if is_tiff(content):
            return Bands(read_tiff(content))
        if content.startswith(_NUMPY):
            return as_bands(read_values(BytesIO(content), size=len(content), largest=LARGEST_IMAGE), channels)
        return as_bands(_single(content), channels)
    except UnknownTiff:
        raise
    except BROKEN as error:
        raise ValueError(one_line(str(error) or type(error).__name__)) from error


def as_bands(values: np.ndarray, channels: int | None) -> Bands:
    """Return a picture of an array (H, W), (H, W, C) or (C, H, W). ValueError for anything else."""
    if values.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise ValueError(f"values of {values.dtype}, should be uint8 or uint16")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"an array of {values.shape}, should be (height, width, channels)")
    first, last = values.shape[0], values.shape[-1]
    if last != channels and (first == channels or first < last):
        values = np.moveaxis(values, 0, -1)
    height, width, count = values.shape
    if count > MOST_CHANNELS or height * width > MOST_PIXELS:
        raise ValueError(f"{counted(count)} of {width} x {height} pixels are too many for a picture")
    return Bands(values)


def _single(content: bytes) -> np.ndarray:
    """Return the only array of an archive."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise ValueError(f"{len(members)} arrays, should be one")
        if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("an array that NumPy did not pack")
        with archive.open(members[0]) as stream:
            return read_values(stream, size=members[0].file_size, largest=LARGEST_IMAGE)
