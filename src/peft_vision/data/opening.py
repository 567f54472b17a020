"""This module is the only place that opens encoded pictures: in a few formats, whatever the file's name, and never with
another program.

Pillow hands PostScript to Ghostscript and knows some forty formats, most of them unused by data sets. Pictures
opened here are decoded within this process, by decoders of formats that pictures are published in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from peft_vision.core.records import open_regular

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO"),
    *("DDS", "DIB", "ICO", "PCX", "PSD", "QOI", "SGI", "TGA"),
)
"""The accepted formats by Pillow's names, the most frequent first; some builds of Pillow lack some of them."""
_LONGEST = 4096  # times the short side: resizing the short side of a longer picture would fill the memory


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
    if max(image.size) > _LONGEST * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels are too narrow for a picture")
    return image
