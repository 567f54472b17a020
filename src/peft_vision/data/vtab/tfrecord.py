"""This module reads TFRecord files and the tf.train.Example messages in them, without TensorFlow.

A record     uint64 length, uint32 checksum of the length, payload, uint32 checksum of the payload; little-endian
A checksum   CRC32C, rotated right by 15 bits, plus 0xA282EAD8
An Example   features { feature { key, value { bytes_list | float_list | int64_list } } ... }, as protobuf writes it
"""

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular
from peft_vision.data.reading import reading

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
