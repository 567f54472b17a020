"""This module reads back JSON and YAML files, whoever wrote them; `tensor_header` does it for safetensors files.

Nothing is trusted before it is checked: a file must be a regular one (a pipe or a device never ends), no larger than
its kind can be, nested no deeper, with texts no longer, and hold whole characters. A pydantic model says what it must
hold beyond that. All faults are one `Unreadable`, whose first line names the file and what is wrong.
"""

import json
import logging
import os
import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line, shown

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


@dataclass(frozen=True)
class Bounds:
    """The limits of a kind of file: `size` in bytes, `depth` of nesting, `text` in characters each, and the number of
    `values`, where an alias of YAML counts as often as it is used."""

    size: int
    depth: int
    text: int
    values: int


RECORD = Bounds(size=2**24, depth=32, text=100_000, values=500_000)
"""The limits of result.json, ood.json and the like."""
CONFIG = Bounds(size=2**20, depth=32, text=20_000, values=50_000)
"""The limits of YAML files that people write."""
LINES = Bounds(size=2**25, depth=8, text=20_000, values=5_000)
"""The limits of files with one record a line; all but `size` hold for a single line."""
_CHECKSUM = "checksum"
_log = logging.getLogger("peft_vision")
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # the gap holds the bytes of file names that are not UTF-8
_LONGEST_LINE = 2**20  # bytes
_LARGEST = 2**63  # no count or index is larger; seeds may be twice as large

Model = TypeVar("Model", bound=BaseModel)
Finite = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
"""A number whose square and whose sum over runs are finite too."""
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of images, parameters or steps, small enough for a float to distinguish it from the next one."""
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Name = Annotated[str, StringConstraints(max_length=1000)]
"""The name of a class, a file or a component."""


class Record(BaseModel):
    """A model of the fields that a file must hold. Numbers in quotes are refused, keys of later versions ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Unreadable(ConfigError, ValueError):
    """The error for a file that cannot be used; a ValueError too, for users of the library. `reason`: the fault in a
    few words, without the file's name."""

    def __init__(self, path: Path, reason: str, remedy: str = "") -> None:
        self.path, self.reason = path, one_line(reason)
        super().__init__(f"cannot read {shown(path)}: {self.reason}" + (f"\n{remedy}" if remedy else ""))


def read_bytes(path: Path, *, largest: int, remedy: str = "") -> bytes:
    """Return the content of a regular file of at most `largest` bytes; raise Unreadable for any other."""
    with open_record(path, remedy=remedy) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise Unreadable(path, f"it has {size:,} bytes, more than the {largest:,} of any such file", remedy)
        content = file.read(largest + 1)
    if len(content) > largest:  # it grew meanwhile, or its reported size was wrong
        raise Unreadable(path, f"it has more than the {largest:,} bytes of any such file", remedy)
    return content


def read_json(path: Path, bounds: Bounds = RECORD, *, remedy: str = "") -> Any:
    """Return the value in a JSON file. NaN and infinities are read as Python writes them: a `Record` limits numbers."""
    content = read_bytes(path, largest=bounds.size, remedy=remedy)
    return parse_json(content, path, bounds, remedy=remedy)


def parse_json(text: str | bytes, path: Path, bounds: Bounds = RECORD, *, remedy: str = "") -> Any:
    """Return the value of a JSON text that was found in the file `path`."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise Unreadable(path, f"nested more than {bounds.depth} levels deep", remedy) from error
    except ValueError as error:  # also for text that is not UTF-8, and numbers of thousands of digits
        raise Unreadable(path, f"no JSON: {error}", remedy) from error
    _check(value, path, bounds, remedy)
    return value


def read_json_lines(path: Path, bounds: Bounds = LINES) -> tuple[list[dict[str, Any]], int]:
    """Return the records of a file with one on each line, and the number of lines that hold none and are left out: a
    crash tears the last one."""
    lines = read_bytes(path, largest=bounds.size).splitlines()
    records = [_parsed_line(line, path, bounds) for line in lines]
    whole = [record for record in records if record is not None]
    return whole, len(records) - len(whole)


def lines_checksum(path: Path) -> str:
    """Return the CRC-32 of a file with a record on each line. Raise Unreadable if it cannot be read."""
    return f"{zlib.crc32(read_bytes(path, largest=LINES.size)):08x}"


def _parsed_line(line: bytes, path: Path, bounds: Bounds) -> dict[str, Any] | None:
    try:
        value = parse_json(line, path, bounds) if len(line) <= _LONGEST_LINE else None
    except Unreadable:
        return None
    return value if isinstance(value, dict) else None


def read_yaml(path: Path, bounds: Bounds = CONFIG, *, remedy: str = "") -> Any:
    """Return the plain values in a YAML file: no dates, no sets, nothing that refers to itself."""
    content = read_bytes(path, largest=bounds.size, remedy=remedy)
    try:
        value = yaml.load(content.decode(), _Loader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError) as error:  # PyYAML's own constructors raise the others
        raise Unreadable(path, f"no YAML: {error}", remedy) from error
    _check(value, path, bounds, remedy)
    return value


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses what would take long: nesting, and merge keys (`<<`), which double what they name."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """Compose a node with everything in it; raise YAMLError if it is nested too deep."""
        self._depth += 1
        if self._depth > CONFIG.depth:
            raise yaml.YAMLError(f"nested more than {CONFIG.depth} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys, which PyYAML would expand here."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merge keys (<<) are not read")


def read_record(path: Path, kind: type[Model], bounds: Bounds = RECORD, *, remedy: str = "") -> Model:
    """Return the content of a JSON file as a `kind`."""
    return validated(read_json(path, bounds, remedy=remedy), path, kind, remedy=remedy)


def validated(value: Any, path: Path, kind: type[Model], *, remedy: str = "") -> Model:
    """Return `value`, found in the file `path`, as a `kind`; raise Unreadable with the first fault."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise Unreadable(path, first_fault(error), remedy) from error


def first_fault(error: ValidationError) -> str:
    """Return, in one line, the place of the first fault, what is wrong, and the value that was given."""
    fault = error.errors(include_url=False)[0]
    where = one_line(".".join(str(part) for part in fault["loc"]), longest=100)
    got = "" if fault["type"] == "missing" else f"; got {one_line(repr(fault['input']), longest=60)}"
    return f"{where}: {fault['msg']}{got}" if where else f"{fault['msg']}{got}"


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON keeps it, with a checksum of its values. What JSON does not know, of a user's own type,
    is kept as Python prints it."""
    kept = json.loads(json.dumps(record, default=_as_json))
    return {**kept, _CHECKSUM: _checksum(kept)}


def _as_json(value: Any) -> Any:
    return dict(value) if isinstance(value, Record) else repr(value)


def unsealed(record: Any, path: Path) -> Any:
    """Return a record without its checksum, and warn if its values are not those that were written: a damaged digit
    leaves a figure that looks as good as any. Records of version 0.1.0 have no checksum."""
    if not isinstance(record, dict) or _CHECKSUM not in record:
        return record
    values = {key: value for key, value in record.items() if key != _CHECKSUM}
    if record[_CHECKSUM] != _checksum(values):
        _log.warning("%s is not as it was written: it was edited, or is damaged", shown(path))
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def exists(path: Path) -> bool:
    """Return whether anything has that name, even if no reader accepts it, such as a link that leads nowhere."""
    return os.path.lexists(path)


def open_record(path: Path, *, remedy: str = "") -> BinaryIO:
    """Open a record for reading bytes; raise Unreadable if there is none, or if it is not a regular file."""
    try:
        return open_regular(path)
    except (OSError, ValueError) as error:  # ValueError for a name with a null byte
        raise Unreadable(path, getattr(error, "strerror", None) or str(error), remedy) from error


def _check(value: Any, path: Path, bounds: Bounds, remedy: str) -> None:
    """Check every value without recursion, so that neither depth nor aliases can be too much for the check itself."""
    left, waiting = bounds.values, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        left -= 1
        if left < 0:
            raise Unreadable(path, f"it holds more than {bounds.values:,} values", remedy)
        if depth > bounds.depth:
            raise Unreadable(path, f"nested more than {bounds.depth} levels deep", remedy)
        if isinstance(item, dict):
            for key, inner in item.items():
                _check_one(key, path, bounds, remedy)
                waiting.append((inner, depth + 1))
        elif isinstance(item, list):
            waiting.extend((inner, depth + 1) for inner in item)
        else:
            _check_one(item, path, bounds, remedy)


def _check_one(value: Any, path: Path, bounds: Bounds, remedy: str) -> None:
    if isinstance(value, str):
        if len(value) > bounds.text:
            raise Unreadable(path, f"a text of {len(value):,} characters, at most {bounds.text:,} are read", remedy)
        if not value.isascii() and _HALF.search(value):
            raise Unreadable(path, f"{value[:40]!r} holds half a character (a lone surrogate)", remedy)
    elif isinstance(value, bool | float | None):
        return
    elif not isinstance(value, int):
        raise Unreadable(path, f"{value!r} is no plain value but a {type(value).__name__}", remedy)
    elif not -_LARGEST <= value < 2 * _LARGEST:  # a seed may take 64 bits
        raise Unreadable(path, f"a whole number of {value.bit_length()} bits, at most 64 are read", remedy)
