"""This module stores one tensor as a safetensors file that is written row by row and appears complete or not at all.

Any safetensors reader can open it. Its metadata hold the format, the key, the `origin` (the sources of the tensor as
JSON, for people) and a CRC-32 of origin and rows, so that truncation, flipped bits and other versions are detected.
"""

import json
import os
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from peft_vision.core.records import Unreadable, parse_json
from peft_vision.core.sharing import share
from peft_vision.core.tensor_files import read_header

FORMAT = "peft-vision features 1"
UNFINISHED = ".unfinished"
_ROWS = "rows"
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_CHUNK = 2**26  # bytes read at a time


class Broken(Exception):
    """A stored tensor that must not be used, with the reason."""


@dataclass(frozen=True)
class CacheEntry:
    """A tensor of `shape` and `dtype` with the path where it belongs; `key` identifies all inputs it was computed
    from."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Return the size of the rows in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def open(self) -> Tensor:
        """Return the rows, memory-mapped, after checking every byte. Raise FileNotFoundError, or Broken with the
        reason."""
        rows, metadata = _mapped(self.path)
        if metadata.get("format") != FORMAT:
            raise Broken(f"written by another version ({metadata.get('format')!r}, this is {FORMAT!r})")
        if metadata.get("key") != self.key or tuple(rows.shape) != self.shape or rows.dtype != self.dtype:
            raise Broken("it holds something else")
        if metadata.get("crc32") != f"{_checksum(rows, metadata.get('origin', '')):08x}":
            raise Broken("its checksum is wrong")
        return rows


def file_bytes(entry: CacheEntry, origin: Mapping[str, Any]) -> int:
    """Return the size of the whole file in bytes."""
    return len(_header(entry, json.dumps(origin), 0)) + entry.num_bytes


class Writer:
    """A writer that takes the rows of an entry in order; `place` moves the file to its path, `discard` removes it.

    The unfinished file has its full length from the beginning, so that other processes see how much room it will take.
    """

    def __init__(self, entry: CacheEntry, origin: Mapping[str, Any]) -> None:
        """Open an unfinished file. Raise OSError where the disk refuses it; no file is left then."""
        self._entry = entry
        self._origin = json.dumps(origin)
        self._crc = zlib.crc32(self._origin.encode())
        self._written = 0
        self._path = entry.path.with_name(f".{entry.path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        self._file = self._path.open("wb")
        try:
            self._file.truncate(file_bytes(entry, origin))
            self._file.write(_header(entry, self._origin, 0))  # written anew when the checksum is known
        except OSError:
            self.discard()
            raise

    def write(self, rows: Tensor) -> None:
        """Append the next rows."""
        content = memoryview(rows.to("cpu", self._entry.dtype).contiguous().view(-1).view(torch.uint8).numpy())
        self._file.write(content)
        self._crc = zlib.crc32(content, self._crc)
        self._written += len(content)

    def place(self) -> None:
        """Write the checksum and move the file to its path. Raise ValueError where rows are missing."""
        if self._written != self._entry.num_bytes:
            raise ValueError(f"{self._written} of {self._entry.num_bytes} bytes were written")
        self._file.seek(0)
        self._file.write(_header(self._entry, self._origin, self._crc))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        share(self._path)
        os.replace(self._path, self._entry.path)

    def discard(self) -> None:
        """Close and remove the unfinished file; this does nothing after `place`."""
        with suppress(OSError):  # on a full disk closing the file fails again
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _header(entry: CacheEntry, origin: str, crc: int) -> bytes:
    """Return the header of the file, whose length is the same for any `crc`."""
    metadata = {"format": FORMAT, "key": entry.key, "crc32": f"{crc:08x}", "origin": origin}
    tensor = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [0, entry.num_bytes]}
    text = json.dumps({"__metadata__": metadata, _ROWS: tensor}).encode()
    text += b" " * (-(len(text) + 8) % 64)  # so that rows begin on a cache line
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class Found:
    """A file found in the folder, for listing: its `origin` if it is a valid entry, otherwise the `fault`."""

    path: Path
    origin: dict[str, Any] | None
    fault: str | None


def inspect(path: Path, *, thoroughly: bool) -> Found:
    """Return the origin of an entry, or the fault of the file; `thoroughly` also checks every byte."""
    try:
        rows, metadata = _mapped(path)
        if metadata.get("format") != FORMAT:
            raise Broken("written by another version")
        if thoroughly and metadata.get("crc32") != f"{_checksum(rows, metadata.get('origin', '')):08x}":
            raise Broken("its checksum is wrong")
        origin = parse_json(metadata.get("origin", ""), path)
        if not isinstance(origin, dict):
            raise Broken("it does not say what it is of")
        return Found(path, origin, None)
    except FileNotFoundError:
        return Found(path, None, "it is no file")
    except OSError as error:
        return Found(path, None, error.strerror or str(error))
    except Unreadable:
        return Found(path, None, "it does not say what it is of")
    except Broken as error:
        return Found(path, None, str(error))


def _mapped(path: Path) -> tuple[Tensor, dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        read_header(path)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(_ROWS), file.metadata() or {}
    except (SafetensorError, ValueError, TypeError, UnicodeDecodeError, RuntimeError) as error:
        if isinstance(error.__cause__, OSError):  # missing permissions are not a fault of the file
            raise error.__cause__ from None
        reason = error.reason if isinstance(error, Unreadable) else error
        raise Broken(f"no whole safetensors file: {reason}") from error


def _checksum(rows: Tensor, origin: str) -> int:
    crc = zlib.crc32(origin.encode())
    for chunk in rows.view(-1).view(torch.uint8).split(_CHUNK):
        crc = zlib.crc32(memoryview(chunk.numpy()), crc)
    return crc
