"""This module looks for the files of a data set and reads those that describe it, so that a missing or broken one gives
an error of one or two lines: which file, what it should be, and where to get it.

Any error while a file is read means that the file is not what it should be, and is reported once, here. A FIFO or a
device is never waited for, and no file is read that is larger than its kind can be.
"""

import csv
import hashlib
import os
import pickle
import re
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line, shown
from peft_vision.core.records import Bounds, Unreadable, open_regular, parse_json, read_bytes, require_regular

BROKEN = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, SyntaxError),
    *(MemoryError, RuntimeError, struct.error, zlib.error, csv.Error, tokenize.TokenError),
    *(tarfile.TarError, zipfile.BadZipFile, pickle.PickleError),
)
"""The exceptions that decoders raise for a file that is truncated or not in their format."""
LARGEST_TEXT = 2**28  # bytes; the longest published list has a fiftieth of this
JSON = Bounds(size=2**28, depth=16, text=2**16, values=2**22)
_LONGEST_NAME = 255  # bytes, the limit of common file systems
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".rar", ".7z", ".001")
_NAMED = 3  # missing files named in a message


def require(
    root: Path, wanted: Sequence[str], *, what: str, source: str, key: str = "data.root", archives: Sequence[str] = ()
) -> None:
    """Raise ConfigError, which begins with `key`, unless all of `wanted` exist below `root`: files or folders, where *
    in a name matches anything, and a name that ends with / is that of a folder. The others are as for `absent`."""
    if root.is_file():
        raise ConfigError(f"{key}: {root} is a file; unpack it, and give the folder that holds data sets")
    if missing := [path.rstrip("/") for path in wanted if not _found(root, path)]:
        raise absent(root, missing, len(wanted), what=what, source=source, key=key, archives=archives)


def absent(
    root: Path,
    missing: Sequence[str],
    total: int,
    *,
    what: str,
    source: str,
    key: str = "data.root",
    archives: Sequence[str] = (),
) -> ConfigError:
    """Return a ConfigError which says that `missing` files of a `total` are not below `root`. `what` they are, such as
    "parts of CLEVR"; `source`: a sentence that says where to get them; `archives`: the files they are packed in."""
    if root.is_dir():
        found = f"{root} lacks {len(missing):,} of {total:,} {what}: {first_few(missing)}"
    else:
        found = f"no folder {root}, which should hold {total:,} {what}: {first_few(missing)}"
    packed = _packed(root, missing, what.rpartition(" of ")[2], archives)
    return ConfigError(
        f"{key}: {found}\n{f'unpack {packed}, if that is it, to {root / missing[0]}' if packed else source}"
    )


def require_listed(folder: Path, paths: Sequence[str], *, by: str, remedy: str) -> None:
    """Raise ConfigError unless each of `paths` below `folder`, which the file `by` names, exists; `remedy` says what to
    do."""
    if missing := missing_among(paths, folder):
        raise absent(folder, missing, len(paths), what=f"images of {by}", source=remedy)


def missing_among(paths: Iterable[str], folder: Path) -> list[str]:
    """Return those of `paths` that lead to nothing in `folder`, or out of it. Each sub-folder is listed once: checking
    74,000 files one by one takes seconds."""
    there: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        place, _, name = path.rpartition("/")
        if place not in there:
            inside = is_inside(place) if place else True
            there[place] = names_in(folder / place) if inside and os.path.isdir(folder / place) else set()
        if name not in there[place]:
            missing.append(path)
    return missing


def located(path: str) -> Path:
    """Return the absolute path that a user's `path` means; ~ is the home folder."""
    return Path(path).expanduser().absolute()


def home(root: Path, *names: str) -> Path:
    """Return the folder of a data set that may have its own sub-folder: the first of `names` in `root` that exists, or
    `root`."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def require_readable(paths: Iterable[Path], *, key: str) -> None:
    """Raise ConfigError for the first of `paths` that is not a regular file that can be read."""
    for path in paths:
        try:
            open_regular(path).close()
        except OSError as error:
            raise ConfigError(f"{key}: cannot read {shown(path)}: {error.strerror or error}") from error


def _found(root: Path, path: str) -> bool:
    if path.endswith("/"):
        return (root / path).is_dir()
    return any(root.glob(path)) if "*" in path else (root / path).exists()


def _packed(root: Path, missing: Sequence[str], what: str, archives: Sequence[str]) -> str:
    """Return the archives next to what is missing that contain it: those of `archives`, else one that, by its name,
    might; empty if there is none."""
    folders = sorted({folder for path in missing for folder in (root / path).parents if folder.is_relative_to(root)})
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    if known := [str(file) for file in files if file.name in archives]:
        return " and ".join(known)
    words = [word for name in [what, *missing] for part in name.split("/") if len(word := _letters(part)) > 3]
    likely = (file for file in files if file.name.lower().endswith(_ARCHIVES))
    return next((str(file) for file in likely if any(word in _letters(file.name) for word in words)), "")


def _letters(name: str) -> str:
    """Return the letters and digits only, so that caltech-101.zip matches Caltech101."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


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


def whole_numbers(
    values: Any,
    path: Path,
    *,
    within: tuple[int, int],
    what: str = "labels",
    per: tuple[int, str] | None = None,
    floats: bool = False,
    key: str = "data.root",
) -> np.ndarray:
    """Return `values` of the file `path` as int64 (n,), ConfigError unless all are whole and `within` the two.
    `per`: the expected number of values, and the name of the file with an image for each, "" if it is this one;
    `floats`: accept 3.0 as whole, as MATLAB stores numbers."""
    first, last = within
    count, of = (None, "") if per is None else per
    numbers = np.asarray(values)
    whole = numbers.dtype.kind in "iu" or (floats and numbers.dtype.kind == "f" and (numbers == np.rint(numbers)).all())
    if numbers.ndim != 1 or not numbers.size or not whole or count not in (None, len(numbers)):
        name = "" if what == "labels" else f" as {what}"
        wanted = (
            ("" if count is None else f"{count} ") + "whole numbers" + (f", one for each image of {of}" if of else "")
        )
        raise ConfigError(f"{key}: {path} holds {numbers.dtype} {numbers.shape}{name}, should be {wanted}")
    if not first <= numbers.min() <= numbers.max() <= last:
        raise ConfigError(f"{key}: {path} holds {what} {numbers.min()} to {numbers.max()}, should be {first} to {last}")
    return numbers.astype(np.int64)


def file_sum(path: Path) -> str:
    """Return the sha256 of a file, written as "sha256 <hex digest>"."""
    with reading(path, "the file that was read before", key="data", remedy=""), open_regular(path) as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


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


def first_few(names: Sequence[str]) -> str:
    """Return the first three names, as a message lists them."""
    return ", ".join(map(short, names[:_NAMED])) + (", ..." if names[_NAMED:] else "")
