"""This module handles state files: what torch saves, with a CRC-32 of every byte at the end, so that damage is noticed.

torch's format is a zip, and the checksum is its comment: torch and any other reader open the file as it is. Files of
version 0.1.0 have no comment; there the checksums that a zip keeps of its members are compared.
"""

import re
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
        file.seek(0)
        crc = 0
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
        file.write(_COMMENT % crc)


def read_state(path: Path) -> Any:
    """Return the state, on the CPU, or None without a file. Raise Damaged with the reason, or the disk's OSError."""
    if not path.is_file():
        if path.exists() or path.is_symlink():
            raise Damaged("it is no file")
        return None
    content = path.read_bytes()
    _check(content)
    try:
        return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch may raise anything
        raise Damaged(f"torch cannot read it ({type(error).__name__})") from error


def _check(content: bytes) -> None:
    """Raise Damaged if a byte is not what was written."""
    body, comment = content[:-_COMMENT_LENGTH], content[-_COMMENT_LENGTH:]
    if re.fullmatch(rb"peft-vision crc32 [0-9a-f]{8}", comment):
        if comment != _COMMENT % zlib.crc32(body):
            raise Damaged("its checksum is wrong")
        return
    if content[-22:-18] != _END or content[-2:] != b"\0\0":
        raise Damaged("its end is missing")
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            broken = archive.testzip()
    except Exception as error:  # so may zipfile
        raise Damaged(f"it is no whole zip ({type(error).__name__})") from error
    if broken is not None:
        raise Damaged(f"the checksum of its {broken} is wrong")


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
