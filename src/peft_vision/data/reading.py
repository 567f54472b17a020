"""This module reads the files that describe a data set, so that a broken one gives a one-line error: which file, and
what it should be.

Any error while a file is read means that the file is not what it should be, and is reported once, here. A FIFO or a
device is never waited for, and no file is read that is larger than its kind can be.
"""

import csv
import os
import pickle
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.records import Bounds, Unreadable, parse_json, read_bytes, require_regular

BROKEN = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, SyntaxError),
    *(MemoryError, RuntimeError, struct.error, zlib.error, csv.Error, tokenize.TokenError),
    *(tarfile.TarError, zipfile.BadZipFile, pickle.PickleError),
)
"""The exceptions that decoders raise for a file that is truncated or not in their format."""
LARGEST_TEXT = 2**28  # bytes; the longest published list has a fiftieth of this
JSON = Bounds(size=2**28, depth=16, text=2**16, values=2**22)
_LONGEST_NAME = 255  # bytes, the limit of common file systems


@contextmanager
def reading(path: Path, expected: str, *, key: str = "data.root", remedy: str = "fetch it again") -> Iterator[None]:
    """Guard the reading of one file and nothing else: raise ConfigError, which begins with `key`, unless `path` is a
    regular file and the block reads it without an error. `expected` says what the file should be."""
    try:
        require_regular(path)
        yield
    except (Unreadable, *BROKEN) as error:
        way_out = f"; {remedy}" if remedy else ""
        raise ConfigError(f"{key}: cannot read {path} ({reason(error)}), should be {expected}{way_out}") from error


def reason(error: Exception) -> str:
    """Return the reason that a decoder's error gives, in one line."""
    if isinstance(error, Unreadable):
        return error.reason
    if isinstance(error, OSError) and (error.strerror or type(error) is OSError):
        return one_line(error.strerror or error)
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    return one_line(f"{type(error).__name__}: {error}")


def read_lines(
    path: Path, expected: str, *, key: str = "data.root", remedy: str = "fetch it again", encoding: str = "utf-8"
) -> list[str]:
    """Return the lines of a text file, without line ends; ConfigError as for `reading`."""
    with reading(path, expected, key=key, remedy=remedy):
        return read_bytes(path, largest=LARGEST_TEXT).decode(encoding).splitlines()


def read_json(path: Path, expected: str, *, key: str = "data.root", remedy: str = "fetch it again") -> Any:
    """Return the value in a JSON file; ConfigError as for `reading`."""
    with reading(path, expected, key=key, remedy=remedy):
        return parse_json(read_bytes(path, largest=JSON.size), path, JSON)


def names_in(folder: Path, *, key: str = "data.root") -> set[str]:
    """Return the names of all entries of `folder`; ConfigError if it cannot be listed."""
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise ConfigError(f"{key}: cannot list folder {folder} ({error.strerror})") from error


def refuse_repeated(names: Iterable[Hashable], path: Path, *, key: str = "data.root") -> None:
    """Raise ConfigError for the first of `names`, which were read from the file `path`, that occurs a second time."""
    seen = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{key}: {path} names {short(str(name))} a second time; fetch it again")
        seen.add(name)


def is_inside(path: str) -> bool:
    """Return whether `path`, read from a file, is a valid relative path that stays below the folder it is relative
    to."""
    parts = PurePosixPath(path).parts
    longest = max((len(part.encode(errors="surrogateescape")) for part in parts), default=_LONGEST_NAME + 1)
    return parts[:1] != ("/",) and ".." not in parts and "\0" not in path and longest <= _LONGEST_NAME


def quoted(text: object) -> str:
    """Return the repr of text read from a file, shortened as in `short`."""
    return short(repr(text))


def short(text: str) -> str:
    """Return text read from a file as a message shows it: one line, cut off after 100 characters."""
    return one_line(text, longest=100)
