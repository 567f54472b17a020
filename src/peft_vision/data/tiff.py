"""This module reads TIFF files with any number of samples a pixel, such as the bands of a satellite image: Pillow reads
at most four.

Samples are whole numbers of 8 or 16 bits, all of the same kind; strips or tiles, samples together or in planes,
uncompressed or deflated, with or without horizontal differences (TIFF revision 6.0, 1992, sections 3, 14 and 15). Of a
file of several pictures the first is read. Numbers in the file are compared with its length before anything is
allocated.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MOST_PIXELS = 178_956_970  # Pillow's limit, twice of which is taken for an attack
LARGEST_IMAGE = 2**30  # bytes
_BEGINNINGS = {b"II*\0": "<", b"MM\0*": ">"}
_CODES = {1: "B", 3: "H", 4: "I"}  # the types of whole numbers
_MOST_ENTRIES = 1024
_MOST_SAMPLES = 512
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES, _ROWS, _COUNTS = 256, 257, 258, 259, 273, 277, 278, 279
_ORIENTATION, _PLANES, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = (
    274,
    284,
    317,
    322,
    323,
    324,
    325,
)
_SAMPLE_FORMAT, _PHOTOMETRIC = 339, 262
_DARK_ZERO, _RGB = 1, 2
_PLAIN, _DEFLATED = 1, (8, 32946)


class UnknownTiff(ValueError):
    """The error for a TIFF file of a kind that is not read here."""


def is_tiff(content: bytes) -> bool:
    """Return whether a file begins as TIFF does."""
    return content[:4] in _BEGINNINGS


def read_tiff(content: bytes) -> np.ndarray:
    """Return the first picture of a TIFF file, uint8 or uint16 (H, W, C). UnknownTiff for a kind that is not read here;
    ValueError, struct.error or zlib.error for a damaged file."""
    order = _BEGINNINGS[content[:4]]
    layout = _layout(_tags(content, order))
    out = np.empty((layout.planes, layout.height, layout.width, layout.samples), layout.kind)
    for number, (plane, top, left, rows) in enumerate(layout.blocks()):
        block = _block(content, layout, number, rows, order)
        out[plane, top : top + rows, left : left + layout.across] = block[: layout.height - top, : layout.width - left]
    return out[0] if layout.planes == 1 else np.ascontiguousarray(out[..., 0].transpose(1, 2, 0))


@dataclass(frozen=True)
class _Layout:
    """How a picture lies in its file: blocks of `across` columns and at most `down` rows, each of `samples` a pixel and
    of one of `planes`, at `offsets` and of `counts` bytes."""

    width: int
    height: int
    samples: int
    planes: int
    kind: np.dtype
    across: int
    down: int
    tiled: bool
    deflated: bool
    differences: bool
    offsets: tuple[int, ...]
    counts: tuple[int, ...]

    def blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield plane, top, left and number of stored rows of each block, in the order of the file."""
        for plane in range(self.planes):
            for top in range(0, self.height, self.down):
                for left in range(0, self.width, self.across):
                    yield plane, top, left, self.down if self.tiled else min(self.down, self.height - top)


def _tags(content: bytes, order: str) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers of the first directory by their tags."""
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    if count > _MOST_ENTRIES:
        raise ValueError(f"{count:,} entries in a directory")
    found: dict[int, tuple[int, ...]] = {}
    for entry in range(count):
        place = start + 2 + 12 * entry
        tag, kind, number = struct.unpack_from(f"{order}HHI", content, place)
        if kind not in _CODES:
            continue
        form = f"{order}{number}{_CODES[kind]}"
        if number > len(content):
            raise ValueError(f"{number:,} values of tag {tag} in {len(content):,} bytes")
        where = place + 8 if struct.calcsize(form) <= 4 else struct.unpack_from(f"{order}I", content, place + 8)[0]
        found[tag] = struct.unpack_from(form, content, where)
    return found


def _layout(tags: dict[int, tuple[int, ...]]) -> _Layout:
    def one(tag: int, default: int | None = None) -> int:
        values = tags.get(tag) or (() if default is None else (default,))
        if not values:
            raise ValueError(f"tag {tag} is missing")
        return values[0]

    width, height, samples = one(_WIDTH), one(_HEIGHT), one(_SAMPLES, 1)
    bits, forms = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (1,)))
    if not (width and height and 0 < samples <= _MOST_SAMPLES):
        raise ValueError(f"{samples} samples in {width} x {height} pixels")
    if len(bits) > 1 or not bits <= {8, 16} or forms != {1}:
        raise UnknownTiff("samples that are no whole numbers of 8 or 16 bits")
    if one(_PHOTOMETRIC, _DARK_ZERO) not in (_DARK_ZERO, _RGB):
        raise UnknownTiff("values that are neither intensities nor red, green and blue")
    if one(_ORIENTATION, 1) != 1:
        raise UnknownTiff("another orientation than the usual one")
    if (compression := one(_COMPRESSION, _PLAIN)) not in (_PLAIN, *_DEFLATED):
        raise UnknownTiff(f"compression {compression}; none and deflate are read")
    if (predictor := one(_PREDICTOR, 1)) not in (1, 2):
        raise UnknownTiff(f"predictor {predictor}; 1 and 2 are read")
    kind = np.dtype(np.uint8 if bits == {8} else np.uint16)
    if width * height > MOST_PIXELS or width * height * samples * kind.itemsize > LARGEST_IMAGE:
        raise ValueError(f"{width} x {height} pixels of {samples} samples are too many")
    tiled = _TILE_WIDTH in tags
    across = one(_TILE_WIDTH) if tiled else width
    down = one(_TILE_HEIGHT) if tiled else min(one(_ROWS, height), height)
    offsets, counts = (tags.get(tag, ()) for tag in ((_TILE_OFFSETS, _TILE_COUNTS) if tiled else (_OFFSETS, _COUNTS)))
    planes = samples if one(_PLANES, 1) == 2 else 1
    if not (across and down) or across * down > MOST_PIXELS:
        raise ValueError(f"blocks of {across} x {down} pixels")
    expected = planes * -(-height // down) * -(-width // across)
    if not len(offsets) == len(counts) == expected:
        raise ValueError(f"{len(offsets):,} offsets and {len(counts):,} lengths of {expected:,} blocks")
    return _Layout(
        *(width, height, samples // planes, planes, kind, across, down, tiled),
        *(compression != _PLAIN, predictor == 2, offsets, counts),
    )


def _block(content: bytes, layout: _Layout, number: int, rows: int, order: str) -> np.ndarray:
    """Return the values of a block, (rows, across, samples)."""
    start, count = layout.offsets[number], layout.counts[number]
    stored = content[start : start + count]
    size = rows * layout.across * layout.samples * layout.kind.itemsize
    if len(stored) < count:
        raise ValueError(f"block {number} ends behind the end of the file")
    values = zlib.decompressobj().decompress(stored, size) if layout.deflated else stored[:size]
    if len(values) < size:
        raise ValueError(f"{len(values):,} bytes of a block of {size:,}")
    block = np.frombuffer(values, layout.kind.newbyteorder(order)).reshape(rows, layout.across, layout.samples)
    return np.cumsum(block, axis=1, dtype=layout.kind) if layout.differences else block
