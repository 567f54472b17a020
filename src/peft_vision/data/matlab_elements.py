"""This module reads MATLAB files of format 5 (numbers, texts, cells and structs) and checks sizes before allocating.

A file      128 bytes of header, then elements: uint32 type, uint32 bytes, content; a small one has both in one uint32
A matrix    an element of elements: uint32 flags with the class; int32 sizes; name; the elements of its class
A class     numbers: their values; text: its characters; cell: matrices; struct: length and names of fields, matrices

scipy is not used, because its reader trusts the file: some damage in a cell crashes the whole process.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from peft_vision.core.records import open_regular

_HEAD = 128
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # by type
_CODES = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16", 18: "utf-32"}
_ENDIAN = {"<": "-le", ">": "-be"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _TEXT, _NUMBERS = 1, 2, 4, range(6, 16)
_COMPLEX = 0x800
_DEEPEST = 8
_DAMAGED = "a matrix that does not hold together"

Element = tuple[int, memoryview]


def read_matrices(path: Path, names: Sequence[str], *, largest: int, squeeze: bool) -> dict[str, Any]:
    """Return the matrices of `path` that are called one of `names`, as scipy returns them. ValueError for an
    inconsistent file and for a matrix of more than `largest` bytes; nothing beyond that is unpacked."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD)[124:]
        if head not in _ORDERS:
            raise ValueError(f"Unknown mat file type, {head!r}; format 5 begins otherwise")
        order, found = _ORDERS[head], {}
        while len(found) < len(set(names)) and file.tell() < size:
            kind, length = struct.unpack(f"{order}II", file.read(8))
            if length > size - file.tell():
                raise ValueError(f"an element of {length:,} bytes at byte {file.tell() - 8} of {size:,}")
            if kind not in (_MATRIX, _COMPRESSED):
                raise ValueError(f"an element of type {kind} at byte {file.tell() - 8}, should be a matrix")
            packed = file.read(length)
            content = memoryview(_inflated(packed, largest, order) if kind == _COMPRESSED else packed)
            name = _name(content, order)
            if name not in names:
                continue
            if len(content) > largest:
                raise ValueError(f"{name} has {len(content):,} bytes, more than the {largest:,} that it may have")
            found[name] = _Matrices(order, squeeze).read(content)
    return found


def _inflated(packed: bytes, largest: int, order: str) -> bytes:
    """Return the content of the matrix in a compressed element, cut after `largest` + 1 bytes."""
    inflater = zlib.decompressobj()
    kind, length = struct.unpack(f"{order}II", inflater.decompress(packed, 8))
    if kind != _MATRIX:
        raise ValueError(f"a compressed element of type {kind}, should be a matrix")
    content = inflater.decompress(inflater.unconsumed_tail, min(length, largest) + 1)
    if len(content) != length and len(content) <= largest:
        raise ValueError(_DAMAGED)
    return content


def _elements(content: memoryview, order: str) -> Iterator[Element]:
    """Yield the type and content of each element."""
    place = 0
    while place < len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        if kind >> 16:
            kind, length, start, place = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start, place = place + 8, place + 8 + length + (-length % 8)
        if start + length > len(content):
            raise ValueError(_DAMAGED)
        yield kind, content[start : start + length]


def _name(content: memoryview, order: str) -> str:
    _, _, (_, name) = islice(_elements(content, order), 3)  # ValueError if there are fewer
    return bytes(name).decode("latin1")


class _Matrices:
    """A reader of a file's matrices: `order` is the byte order of numbers, and `squeeze` drops axes of length one."""

    def __init__(self, order: str, squeeze: bool) -> None:
        self.order = order
        self.squeeze = squeeze

    def read(self, content: memoryview, depth: int = _DEEPEST) -> Any:
        """Return an array or, without axes left, a number or a text."""
        if not len(content):  # an empty cell
            return self._squeezed(np.empty((1, 0)))
        if not depth:
            raise ValueError(f"matrices nested more than {_DEEPEST} deep")
        parts = list(_elements(content, self.order))
        if len(parts) < 3:
            raise ValueError(_DAMAGED)
        (_, flags), (_, sizes), _, *rest = parts
        flag = struct.unpack(f"{self.order}I", flags[:4])[0]
        shape = struct.unpack(f"{self.order}{len(sizes) // 4}i", sizes)
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(_DAMAGED)
        group = flag & 0xFF
        if group in _NUMBERS and not flag & _COMPLEX:
            return self._squeezed(self._numbers(rest, shape))
        if group == _TEXT:
            return self._squeezed(self._texts(rest, shape))
        if group == _CELL:
            return self._squeezed(self._cells(rest, math.prod(shape), depth).reshape(shape, order="F"))
        if group == _STRUCT:
            return self._squeezed(self._structs(rest, math.prod(shape), depth).reshape(shape, order="F"))
        raise ValueError(f"a matrix of class {group}, should be of numbers, texts, cells or structs")

    def _numbers(self, rest: list[Element], shape: tuple[int, ...]) -> np.ndarray:
        ((kind, values),) = rest
        numbers = np.dtype(_KINDS[kind]).newbyteorder(self.order)
        if len(values) != math.prod(shape) * numbers.itemsize:
            raise ValueError(_DAMAGED)
        found = np.frombuffer(values, numbers).reshape(shape, order="F")
        return found.astype(numbers.newbyteorder("="), copy=False)

    def _texts(self, rest: list[Element], shape: tuple[int, ...]) -> np.ndarray:
        """Return one text for each row."""
        kind, values = rest[0] if rest else (16, b"")
        code = _CODES[kind]
        text = bytes(values).decode(code if code == "utf-8" else f"{code}{_ENDIAN[self.order]}")
        if len(text) != math.prod(shape):
            raise ValueError(_DAMAGED)
        if not text:
            return np.empty(0, "U1")
        *rows, _ = shape
        letters = np.array(list(text)).reshape(shape, order="F").reshape(-1, shape[-1])
        return np.array(["".join(row) for row in letters.tolist()]).reshape(rows)

    def _cells(self, inner: list[Element], count: int, depth: int) -> np.ndarray:
        if len(inner) != count or any(kind != _MATRIX for kind, _ in inner):
            raise ValueError(_DAMAGED)
        found = np.empty(count, dtype=object)
        for place, (_, content) in enumerate(inner):
            found[place] = self.read(content, depth - 1)
        return found

    def _structs(self, rest: list[Element], count: int, depth: int) -> np.ndarray:
        (_, length), (_, letters), *inner = rest
        each = struct.unpack(f"{self.order}i", length)[0]
        if each < 1 or not len(letters) or len(letters) % each:
            raise ValueError(_DAMAGED)
        names = [bytes(letters[start : start + each]) for start in range(0, len(letters), each)]
        names = [name.partition(b"\0")[0].decode() for name in names]
        values = self._cells(inner, count * len(names), depth)
        found = np.empty(count, dtype=[(name, object) for name in names])
        for place, name in enumerate(names):
            found[name] = values[place :: len(names)]
        return found

    def _squeezed(self, found: np.ndarray) -> Any:
        if not self.squeeze:
            return found
        if not found.size:
            return np.empty(0, found.dtype)
        found = found.squeeze()
        return found.item() if not found.shape and found.dtype.kind != "V" else found
