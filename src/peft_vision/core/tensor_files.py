"""This module reads the header of a safetensors file, checked against the file's size before any tensor is made.

The file has eight bytes that say how long the header is (little endian); the header, JSON of tensors by name, each with
type, shape and its place among the bytes that follow; and those bytes, without holes.
"""

import math
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import Field
from torch import Tensor

from peft_vision.core.records import Bounds, Name, Record, Unreadable, open_record, parse_json, validated

FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
"""The types of tuned tensors."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}
_LONGEST = 2**24  # bytes of a header
_HEADER = Bounds(size=_LONGEST, depth=8, text=_LONGEST, values=500_000)
_PREFIX = 8  # bytes

_Length = Annotated[int, Field(ge=0, le=2**53)]


class _Tensor(Record):
    dtype: Name
    shape: Annotated[list[_Length], Field(max_length=8)]
    data_offsets: Annotated[list[_Length], Field(min_length=2, max_length=2)]


class _Header(Record, extra="allow"):
    __pydantic_extra__: dict[Name, _Tensor]
    metadata: Annotated[dict[Name, str], Field(alias="__metadata__", default_factory=dict)]


@dataclass(frozen=True)
class TensorPlace:
    """A tensor's place in a file. `dtype`: as safetensors calls it, such as F32; `begin`, `num_bytes`: in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


@dataclass(frozen=True)
class TensorHeader:
    """A header that was read: `metadata` holds texts, `tensors` are by name."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorPlace]


def read_header(path: Path, *, dtypes: Set[str] = FLOATS, remedy: str = "") -> TensorHeader:
    """Read the header of a file; raise Unreadable unless tensors of `dtypes` fill the file to its last byte."""
    with open_record(path, remedy=remedy) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_PREFIX), "little")
        if size < _PREFIX or not 2 <= length <= min(_LONGEST, size - _PREFIX):
            raise Unreadable(path, "it is no safetensors file: its header does not fit into it", remedy)
        text = file.read(length)
    header = validated(parse_json(text, path, _HEADER, remedy=remedy), path, _Header, remedy=remedy)
    first = _PREFIX + length
    found = {name: _place(name, tensor, path, first, dtypes, remedy) for name, tensor in _tensors(header).items()}
    end = first
    for name, place in sorted(found.items(), key=lambda item: (item[1].begin, item[1].num_bytes)):
        if place.begin != end:
            raise Unreadable(path, f"tensor {name}: begins at byte {place.begin}, the one before ends at {end}", remedy)
        end += place.num_bytes
    if end != size:
        raise Unreadable(path, f"its tensors end at byte {end}, the file at {size}", remedy)
    return TensorHeader(header.metadata, found)


def _tensors(header: _Header) -> dict[str, Any]:
    return header.__pydantic_extra__ or {}


def _place(name: str, tensor: _Tensor, path: Path, first: int, dtypes: Set[str], remedy: str) -> TensorPlace:
    if tensor.dtype not in dtypes:
        raise Unreadable(
            path, f"tensor {name}: its type is {tensor.dtype}, should be {', '.join(sorted(dtypes))}", remedy
        )
    begin, end = tensor.data_offsets
    num_bytes = math.prod(tensor.shape) * _BYTES[tensor.dtype]
    if num_bytes != end - begin:
        raise Unreadable(path, f"tensor {name}: {end - begin} bytes for shape {tensor.shape} of {tensor.dtype}", remedy)
    return TensorPlace(tensor.dtype, tuple(tensor.shape), first + begin, num_bytes)


_COMMENT = b"peft-vision crc32 %08x"
_COMMENT_LENGTH = len(_COMMENT % 0)
_END = b"PK\5\6"  # begins the last 22 bytes of a zip without a comment, whose last two are the comment's length
_CHUNK = 2**24


class Damaged(Exception):
    """The error for a state that must not be resumed from, with the reason."""


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors, numbers, texts and containers of them."""
    with path.open("wb+") as file:  # given a path, torch hides why it cannot write
        torch.save(dict(state), file)
        file.seek(-2, 2)
        file.write(_COMMENT_LENGTH.to_bytes(2, "little"))
        file.write(_COMMENT % _crc32(file, file.tell()))


def read_state(path: Path) -> Any:
    """Return the state, on the CPU, or None without a file. Raise Damaged with the reason, or the disk's OSError."""
    if not path.is_file():
        if path.exists() or path.is_symlink():
            raise Damaged("it is no file")
        return None
    with path.open("rb") as file:
        _check(file)
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch may raise anything
            raise Damaged(f"torch cannot read it ({type(error).__name__})") from error


def _check(file: BinaryIO) -> None:
    """Raise Damaged if a byte is not what was written. Only a chunk is in memory at a time, and of a file without the
    end of a state no more than that end is read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _COMMENT_LENGTH))
    comment = file.read()
    if re.fullmatch(rb"peft-vision crc32 [0-9a-f]{8}", comment):
        if comment != _COMMENT % _crc32(file, size - _COMMENT_LENGTH):
            raise Damaged("its checksum is wrong")
        return
    if comment[-22:-18] != _END or comment[-2:] != b"\0\0":
        raise Damaged("its end is missing")
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # so may zipfile
        raise Damaged(f"it is no whole zip ({type(error).__name__})") from error
    if broken is not None:
        raise Damaged(f"the checksum of its {broken} is wrong")


def _crc32(file: BinaryIO, num_bytes: int) -> int:
    """Return the CRC-32 of the first bytes of a file."""
    file.seek(0)
    crc = 0
    while num_bytes > 0 and (chunk := file.read(min(_CHUNK, num_bytes))):
        crc = zlib.crc32(chunk, crc)
        num_bytes -= len(chunk)
    return crc


def check_tensors(found: Any, expected: Mapping[str, Tensor], what: str) -> None:
    """Raise Damaged unless `found` holds tensors of the names, shapes and types of `expected`."""
    if not isinstance(found, Mapping) or found.keys() != expected.keys():
        raise Damaged(f"{what} are of other names than this run's")
    for name, tensor in expected.items():
        candidate = found[name]
        if not isinstance(candidate, Tensor) or (candidate.shape, candidate.dtype) != (tensor.shape, tensor.dtype):
            raise Damaged(f"{what}: {name} is {_described(candidate)}, should be {_described(tensor)}")


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
