"""This module reads Python pickles of plain values and NumPy arrays, such as CIFAR's, without creating anything else.

A pickle is a program that may name any function. Its instructions are checked first: only those that plain values
need are allowed, within limits. Then the pickle runs with stand-ins for the few names that arrays need.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from peft_vision.core.records import read_bytes
from peft_vision.data.reading import reading

_LARGEST = 2**28  # bytes; CIFAR-100's training images have 155 million
_CONSTANTS = "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT"
_TEXTS = (
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_CONTAINERS = "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3"
_MEMORY = "GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE"
_MAKING = "PROTO FRAME MARK STOP POP GLOBAL STACK_GLOBAL REDUCE BUILD"
_ALLOWED = frozenset(f"{_CONSTANTS} {_TEXTS} {_CONTAINERS} {_MEMORY} {_MAKING}".split())
_MOST_TUPLES = 1000  # limits the depth of nesting, as a lookup of a nested tuple recurses once for each level
_KINDS = "biuf"  # allowed kinds of an array's values, by NumPy's letters


class Array:
    """An array as a pickle describes it, before the description is checked."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.kind, self.by_column, self.content = state

    def array(self) -> np.ndarray:
        """Return the NumPy array. ValueError or TypeError if the description is inconsistent."""
        kind = self.kind.dtype()
        shape = tuple(int(size) for size in self.shape)
        content = self.content.encode("latin1") if isinstance(self.content, str) else bytes(self.content)
        if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(content):
            raise ValueError(f"{len(content)} bytes for an array of {shape} {kind}")
        return np.frombuffer(content, kind).reshape(shape, order="F" if self.by_column else "C")


class _Kind:
    """The data type of an array's values, as a pickle describes it."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        kind = np.dtype(self.code)
        if kind.kind not in _KINDS:
            raise ValueError(f"an array of {kind}, should be of numbers")
        return kind.newbyteorder(self.order)


def _reconstruct(*_: object) -> Array:
    return Array()


def _from_buffer(content: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> Array:
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Kind,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


def read_pickle(path: Path, expected: str, *, key: str, remedy: str) -> dict[str, Any]:
    """Return the dict in a file, whose arrays are `Array`s; Python 2 strings are read as Latin-1. ConfigError as for
    `reading`."""
    with reading(path, expected, key=key, remedy=remedy):
        content = read_bytes(path, largest=_LARGEST)
        _check(content)
        found = _Plain(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(found, dict):
            raise TypeError(f"a {type(found).__name__}, should be a dict")
        return found


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain values and arrays are read")
        return _STAND_INS[module, name]


def _check(content: bytes) -> None:
    """Raise ValueError for an instruction that plain values do not need, or that needs more memory than the file can
    fill."""
    tuples = 0
    for number, (instruction, argument, place) in enumerate(pickletools.genops(content)):
        if instruction.name not in _ALLOWED:
            raise ValueError(f"{instruction.name} at byte {place}; only plain values and arrays are read")
        if "PUT" in instruction.name and int(argument) > number + 1:  # the unpickler allocates up to the highest index
            raise ValueError(f"{instruction.name} {argument} at byte {place}, the {number + 1}th instruction")
        tuples += "TUPLE" in instruction.name
        if tuples > _MOST_TUPLES:
            raise ValueError(f"more than {_MOST_TUPLES} tuples")
