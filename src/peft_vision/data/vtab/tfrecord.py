"""This module reads TFRecord files and the tf.train.Example messages and encoded pictures in them, without TensorFlow.

A record     uint64 length, uint32 checksum of the length, payload, uint32 checksum of the payload; little-endian
A checksum   CRC32C, rotated right by 15 bits, plus 0xA282EAD8
An Example   features { feature { key, value { bytes_list | float_list | int64_list } } ... }, as protobuf writes it
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular, read_middle
from peft_vision.data.pictures import EncodedPictures
from peft_vision.data.reading import reading, short

_HEADER, _FOOTER = 12, 4  # bytes around a payload
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_DAMAGED = "no tf.train.Example, or a damaged one"


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """Return the checksum of a record's length or payload."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each payload, in bytes. ConfigError for a file that is not a TFRecord or is truncated;
    only the checksums of the lengths are verified."""
    with reading(path, "a TFRecord", key="data"), open_regular(path) as file:
        start, size = 0, os.fstat(file.fileno()).st_size
        while start < size:
            file.seek(start)
            header = file.read(_HEADER)
            if len(header) == _HEADER and struct.unpack("<I", header[8:])[0] != masked_crc(header[:8]):
                raise ConfigError(f"data: {path} is no TFRecord, or is damaged, at byte {start}; fetch it again")
            end = start + _HEADER + int.from_bytes(header[:8], "little") + _FOOTER
            if len(header) < _HEADER or end > size:
                raise ConfigError(f"data: {path} is cut off in its record at byte {start} of {size}; fetch it again")
            yield start + _HEADER, end - start - _HEADER - _FOOTER
            start = end


def payloads(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the offset, in bytes, and the content of each payload; ConfigError as for `records`."""
    with reading(path, "a TFRecord", key="data"), open_regular(path) as file:
        for offset, length in records(path):
            file.seek(offset)
            yield offset, file.read(length)


def example(payload: bytes) -> dict[str, list[bytes] | np.ndarray]:
    """Return the features of a tf.train.Example: int64 (n,), float32 (n,) or a list of bytes. ValueError for any other
    payload."""
    features: dict[str, list[bytes] | np.ndarray] = {}
    for message in _delimited(payload, 1):
        for entry in _delimited(message, 1):
            keys, values = _delimited(entry, 1), _delimited(entry, 2)
            features[b"".join(keys[-1:]).decode()] = _feature(b"".join(values[-1:]))
    return features


def number(features: Mapping[str, list[bytes] | np.ndarray], name: str) -> int:
    """Return the single whole number of a feature. KeyError or ValueError if it holds anything else."""
    values = features[name]
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or len(values) != 1:
        raise ValueError(f"{name} is no whole number")
    return int(values[0])


def text(features: Mapping[str, list[bytes] | np.ndarray], name: str) -> str:
    """Return the single text of a feature. KeyError or ValueError if it holds anything else."""
    values = features[name]
    if not isinstance(values, list) or len(values) != 1:
        raise ValueError(f"{name} is no text")
    return values[0].decode()


def numbers(features: Mapping[str, list[bytes] | np.ndarray], name: str, kind: type[np.generic]) -> np.ndarray:
    """Return the numbers (n,) of a feature, n = 0 if it is absent. ValueError unless they are finite and of dtype
    `kind`."""
    values = features.get(name, ())
    if not len(values):
        return np.empty(0, kind)
    if not isinstance(values, np.ndarray) or values.dtype != kind or not np.isfinite(values).all():
        raise ValueError(f"{name} is no list of numbers")
    return values


def _feature(message: bytes) -> list[bytes] | np.ndarray:
    for kind, wire, content in _fields(message):
        if wire != _DELIMITED:
            raise ValueError(_DAMAGED)
        if kind == _BYTES_LIST:
            return _delimited(content, 1)
        if kind == _FLOAT_LIST:
            return np.frombuffer(b"".join(_chunks(content)), "<f4")
        if kind == _INT64_LIST:
            return np.array(_integers(content), np.uint64).view(np.int64)
    return []


def _chunks(message: bytes) -> Iterator[bytes]:
    for _, wire, content in _fields(message):
        if wire not in (_FIXED32, _DELIMITED):
            raise ValueError(_DAMAGED)
        yield content


def _integers(message: bytes) -> list[int]:
    """Return the values as unsigned 64-bit integers, whether packed or one by one."""
    values = []
    for _, wire, content in _fields(message):
        if wire == _VARINT:
            values.append(content)
            continue
        if wire != _DELIMITED:
            raise ValueError(_DAMAGED)
        place = 0
        while place < len(content):
            value, place = _varint(content, place)
            values.append(value)
    return values


def _delimited(message: bytes, number: int) -> list[bytes]:
    return [content for found, wire, content in _fields(message) if found == number and wire == _DELIMITED]


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """Yield number, wire type and content of each field of a message."""
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, wire, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _DELIMITED:
            length, place = _varint(message, place)
        if length is None or place + length > end:
            raise ValueError(_DAMAGED)
        yield number, wire, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the number at `place`, 7 bits a byte, and the position after it."""
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
        shift += 7
    raise ValueError(_DAMAGED)


class Place(NamedTuple):
    """The place of an encoded image: its file, and its offset and length there in bytes."""

    file: Path
    offset: int
    length: int


class Encoded(EncodedPictures):
    """Pictures with one encoded image at each of `places`; moving the folder does not change their fingerprint."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        place = self.places[index]
        return f"{place.file} (the image at byte {place.offset})"

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            place = self.places[index]
            yield f"{place.file.name}\0{place.offset}\0{place.length}\0".encode()

    def content(self, index: int) -> bytes:
        """Open the file anew each time, because threads and loader processes must not share a position in it."""
        place = self.places[index]
        with open_regular(place.file) as file:
            file.seek(place.offset)
            return file.read(place.length)

    def length(self, index: int) -> int:
        return self.places[index].length

    def middle(self, index: int) -> bytes:
        place = self.places[index]
        return read_middle(place.file, place.offset, place.length)


def place_of(image: bytes, file: Path, payload: bytes, offset: int) -> Place:
    """Return the place of `image` in the payload that begins at `offset` of `file`. ValueError if it is not there."""
    if not isinstance(image, bytes):
        raise ValueError("a picture that is no bytes")
    return Place(file, offset + payload.index(image), len(image))


def record_images(
    files: Iterable[Path], image: str, *others: str
) -> Iterator[tuple[Place, dict[str, list[bytes] | np.ndarray]]]:
    """Yield the place of the feature `image` of each example, with all of its features; ConfigError if a named feature
    is missing."""
    for file in files:
        for offset, payload in payloads(file):
            try:
                features = example(payload)
            except ValueError as error:  # also for a name that is not UTF-8
                raise ConfigError(f"data.root: {file} holds {error}, at byte {offset}; fetch it again") from error
            if missing := [name for name in (image, *others) if not len(features.get(name, ()))]:
                found = short(", ".join(sorted(features))) or "none"
                raise ConfigError(f"data.root: {file} has no feature {missing[0]} at byte {offset}; it has {found}")
            with reading(file, f"records with a picture as {image}"):
                place = place_of(features[image][0], file, payload, offset)
            yield place, features
