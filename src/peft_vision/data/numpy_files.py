"""This module reads arrays in NumPy's own format without unpickling; the size in the header is compared with the size
of the file before anything is allocated."""

import io
import math
import os
from pathlib import Path
from typing import IO

import numpy as np

from peft_vision.core.records import open_regular

_LONGEST_HEAD = 10_000  # bytes, as NumPy itself allows
_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


def read_head(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether values are in column-major order, and dtype of the values that follow. ValueError for a
    malformed header and for objects, which would have to be unpickled."""
    version = np.lib.format.read_magic(stream)[0]
    if version not in _READERS:
        raise ValueError(f"version {version} of the format")
    length = stream.read(2 if version == 1 else 4)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEAD:
        raise ValueError(f"a head of {size:,} bytes")
    shape, by_column, kind = _READERS[version](io.BytesIO(length + stream.read(size)))
    if kind.hasobject:
        raise ValueError("objects, which are not unpickled")
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape of {shape}")
    return shape, by_column, kind


def num_bytes(shape: tuple[int, ...], kind: np.dtype) -> int:
    """Return the size in bytes of the values that a header announces."""
    return math.prod(shape) * kind.itemsize


def read_values(stream: IO[bytes], *, size: int, largest: int) -> np.ndarray:
    """Return the array in a stream of `size` bytes. ValueError if the header announces more than `size` or `largest`
    bytes, or the stream is shorter."""
    shape, by_column, kind = read_head(stream)
    promised = num_bytes(shape, kind)
    if promised > min(size, largest):
        raise ValueError(f"an array of {shape} {kind} in {size:,} bytes")
    content = stream.read(promised)
    if len(content) < promised:
        raise ValueError(f"{len(content):,} bytes of an array of {promised:,}")
    return np.frombuffer(content, kind).reshape(shape, order="F" if by_column else "C")


def map_values(path: Path) -> np.ndarray:
    """Return the array in a file, memory-mapped. ValueError if the file is shorter than its header says."""
    with open_regular(path) as file:
        shape, by_column, kind = read_head(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        if start + num_bytes(shape, kind) > size:
            raise ValueError(f"{size:,} bytes, should hold {shape} {kind}")
        return np.memmap(file, kind, "r", start, shape, "F" if by_column else "C")
