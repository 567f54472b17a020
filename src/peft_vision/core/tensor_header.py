"""This module reads the header of a safetensors file, checked against the file's size before any tensor is made.

The file has eight bytes that say how long the header is (little endian); the header, JSON of tensors by name, each with
type, shape and its place among the bytes that follow; and those bytes, without holes.
"""

import math
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

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
