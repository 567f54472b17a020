"""What is in a file of MATLAB's format 5, looked over before scipy makes anything of it.

A file      128 bytes of head, then elements: uint32 type, uint32 bytes, content; a small one has both in one uint32
A matrix    an element of elements: uint32 flags with the class; int32 sizes; name; what the class needs
A class     numbers: their values; text: its characters; cell: matrices; struct: names of fields, matrices
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from peft_vision.data.regular import open_regular

_HEAD = 128
_VERSION = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_WIDTH = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}  # bytes, by type
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _TEXT, _NUMBERS = 1, 2, 4, range(6, 16)
_COMPLEX = 0x800
_DEEPEST = 8
_DAMAGED = "a matrix that does not hold together"

Element = tuple[int, memoryview]


def unpacked(path: Path, names: tuple[str, ...], *, largest: int) -> bytearray:
    """A file of those matrices of `path` that are called one of `names`, not compressed, each known to be as large as
    it says and to hold numbers, texts, cells and structs only. ValueError for others, and beyond `largest` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD)
        order = _VERSION.get(head[124:128])
        if order is None:
            raise ValueError(f"Unknown mat file type, {head[124:128]!r}; format 5 begins otherwise")
        content, wanted = bytearray(head), set(names)
        while wanted and file.tell() < size:
            kind, length = struct.unpack(f"{order}II", file.read(8))
            if length > size - file.tell():
                raise ValueError(f"an element of {length:,} bytes at byte {file.tell() - 8} of {size:,}")
            if kind not in (_MATRIX, _COMPRESSED):
                raise ValueError(f"an element of type {kind} at byte {file.tell() - 8}, should be a matrix")
            packed = file.read(length)
            element = _inflated(packed, largest, order) if kind == _COMPRESSED else packed
            name = _name(memoryview(element), order)
            if name in wanted and len(element) <= largest:
                wanted.remove(name)
                _check(memoryview(element), order, _DEEPEST)
                content += struct.pack(f"{order}II", _MATRIX, len(element)) + element
            elif name in wanted:
                raise ValueError(f"{name} has {len(element):,} bytes, more than the {largest:,} that it may have")
    return content


def _inflated(packed: bytes, largest: int, order: str) -> bytes:
    """The content of the matrix in a compressed element; no more than its beginning where that is larger."""
    inflater = zlib.decompressobj()
    head = inflater.decompress(packed, 8)
    kind, length = struct.unpack(f"{order}II", head)
    if kind != _MATRIX:
        raise ValueError(f"a compressed element of type {kind}, should be a matrix")
    content = inflater.decompress(inflater.unconsumed_tail, min(length, largest) + 1)
    if len(content) != length and len(content) <= largest:
        raise ValueError(_DAMAGED)
    return content


def _elements(content: memoryview, order: str) -> Iterator[Element]:
    """Type and content of each."""
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
    parts = _elements(content, order)
    _, _, (_, name) = next(parts), next(parts), next(parts)
    return bytes(name).decode("latin1")


def _check(content: memoryview, order: str, depth: int) -> None:
    """ValueError unless a matrix has as many values as its sizes say."""
    if not len(content):  # an empty cell
        return
    if not depth:
        raise ValueError(f"matrices nested more than {_DEEPEST} deep")
    parts = list(_elements(content, order))
    if len(parts) < 3:
        raise ValueError(_DAMAGED)
    (_, flags), (_, sizes), _, *rest = parts
    flag = struct.unpack(f"{order}I", flags[:4])[0]
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(_DAMAGED)
    count, group = math.prod(shape), flag & 0xFF
    if group in _NUMBERS:
        copies = 2 if flag & _COMPLEX else 1
        fits = len(rest) == copies and all(len(its) == count * _WIDTH.get(kind, 0) for kind, its in rest)
    elif group == _TEXT:
        fits = len(rest) <= 1 and count <= sum(len(its) for _, its in rest)
    elif group in (_CELL, _STRUCT):
        fields = rest[:2] if group == _STRUCT else []
        each = len(fields[1][1]) // struct.unpack(f"{order}i", fields[0][1])[0] if fields else 1
        inner = rest[len(fields) :]
        fits = len(inner) == count * each and all(kind == _MATRIX for kind, _ in inner)
        for _, its in inner:
            _check(its, order, depth - 1)
    else:
        raise ValueError(f"a matrix of class {group}, should be of numbers, texts, cells or structs")
    if not fits:
        raise ValueError(_DAMAGED)
