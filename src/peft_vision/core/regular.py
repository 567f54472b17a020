"""This module opens files only if they are regular: reading a FIFO or a device could wait without end."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FEW = 128  # bytes
_FLAGS = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY"))  # POSIX has them


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; raise OSError if there is nothing, or anything else."""
    require_regular(path)  # before opening, since opening some devices has side effects
    handle = os.open(path, _FLAGS)
    try:
        _refuse_others(os.fstat(handle))  # again: it may be another file by now
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path | str) -> bytes:
    """Return the content of a regular file; raise OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_middle(path: Path | str, start: int, length: int) -> bytes:
    """Return at most _FEW bytes from the middle of the `length` that begin at `start` of a regular file; raise OSError
    as `open_regular` does."""
    with open_regular(path) as file:
        file.seek(start + max(0, length - _FEW) // 2)
        return file.read(min(length, _FEW))


def require_regular(path: Path | str) -> None:
    """Raise OSError unless `path` is a regular file, for readers that want a name and not an open file."""
    _refuse_others(os.stat(path))


def _refuse_others(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}, should be a regular file")
