"""This module reads pictures, labels and the recorded class names from parquet files; pictures one row group at a time.

Each file of a data set may number its classes in a different order: a number means the class that the same file gives
that number.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from peft_vision.core.config import ConfigError, nearest
from peft_vision.core.output import one_line, shown
from peft_vision.core.records import open_regular
from peft_vision.data.decode import open_bytes
from peft_vision.data.pictures import EncodedPictures

_MAGIC = b"PAR1"
_FEW = 128  # bytes
_HELD_MIB = 256  # for row groups kept in memory; Hugging Face writes 100 encoded pictures into one
_MOST_CLASSES = 1_000_000  # limit for numbers without names, so that no list of 2**62 is made


def pyarrow() -> ModuleType:
    """Return the module `pyarrow.parquet`. ConfigError if it is not installed."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError("data: parquet files are read by pyarrow; pip install pyarrow") from error
    return pyarrow.parquet


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """Yield a `pyarrow.parquet.ParquetFile`. OSError if `path` is not a regular file, not a parquet file, or broken."""
    parquet = pyarrow()
    import pyarrow as arrow

    with open_regular(path) as file:
        if file.read(len(_MAGIC)) != _MAGIC:  # pyarrow looks at the end only
            raise OSError(f"it does not begin with {_MAGIC.decode()}")
    try:
        with parquet.ParquetFile(path, memory_map=True, **options) as file:
            yield file
    except (arrow.ArrowException, ValueError, RuntimeError) as error:
        raise OSError(one_line(error)) from error


@dataclass(frozen=True)
class ParquetFile:
    """A parquet file below `root`, with the number of rows of each row group."""

    root: Path
    path: str
    size: int
    rows: tuple[int, ...]


class ParquetRows(EncodedPictures):
    """The pictures in `column` of `files`, in order. Values are bytes or, as Hugging Face has them, structs {bytes,
    path}."""

    def __init__(self, files: Sequence[ParquetFile], column: str) -> None:
        self.files = list(files)
        self.column = column
        counts = [(place, group, rows) for place, file in enumerate(files) for group, rows in enumerate(file.rows)]
        self._groups = [(place, group) for place, group, _ in counts]
        self._starts = np.cumsum([0, *(rows for _, _, rows in counts)])
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetRows, (self.files, self.column)  # a lock cannot be sent to a loader process

    def __len__(self) -> int:
        return int(self._starts[-1])

    def name(self, index: int) -> str:
        file, row = self._row(index)
        return f"{shown(file.root / file.path)} row {row}"

    def opened(self, index: int) -> AbstractContextManager[Image.Image]:
        content = self._content(index)
        if content is None:  # the row names a picture that the file does not hold
            raise ValueError(f"no bytes in column {self.column}")
        return open_bytes(content)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        """Identify pictures by file path, file size and row, because their content would have to be read."""
        for index in indices.tolist():
            file, row = self._row(index)
            yield f"{file.path}\0{file.size}\0{row}\0".encode()

    def content(self, index: int) -> bytes:
        return self._content(index) or b""

    def length(self, index: int) -> int:
        """Return the encoded bytes of a picture, from a column read just now or read again; nothing is decoded."""
        return len(self.content(index))

    def middle(self, index: int) -> bytes:
        content = self.content(index)
        return content[max(0, len(content) - _FEW) // 2 :][:_FEW]

    def _row(self, index: int) -> tuple[ParquetFile, int]:
        """Return the file of a picture, and its row in the file."""
        place, group = self._groups[self._number(index)]
        before = sum(self.files[place].rows[:group])
        return self.files[place], before + index - int(self._starts[self._number(index)])

    def _number(self, index: int) -> int:
        """Return the number, counted over all files, of the row group that holds row `index`."""
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _content(self, index: int) -> bytes | None:
        number = self._number(index)
        value = self._group(number)[index - int(self._starts[number])].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    def _group(self, number: int) -> Any:
        """Return the column of a row group, from the ones kept in memory or read now."""
        with self._lock:  # several threads decode, and the parquet reader is not thread-safe
            if number not in self._held:
                place, group = self._groups[number]
                file = self.files[place]
                # without pyarrow's threads: a loader process that is forked while they work would wait forever
                with opened(file.root / file.path, pre_buffer=False) as parquet:
                    table = parquet.read_row_group(group, columns=[self.column], use_threads=False)
                self._held[number] = table.column(self.column)
            self._held.move_to_end(number)
            while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > _HELD_MIB * 2**20:
                self._held.popitem(last=False)
            return self._held[number]


@dataclass(frozen=True)
class ParquetLabels:
    """The labels of a file's rows, as numbers or names. `names`: the class names by number, if the file records
    them."""

    file: ParquetFile
    values: list[Any]
    names: tuple[str, ...] | None

    @property
    def path(self) -> Path:
        return self.file.root / self.file.path

    def places(self, classes: tuple[str, ...], key: str) -> list[int]:
        """Return each row's position in `classes`. ConfigError, which begins with `key`, for a class that is not in
        `classes`."""
        known = {name: place for place, name in enumerate(classes)}
        places = {}
        for value in dict.fromkeys(self.values):
            name = self._name(value, classes)
            if name not in known:
                wrong = value if name is None else name
                raise ConfigError(f"{key}: class {wrong!r} of {self.path} is not among the {len(classes)}")
            places[value] = known[name]
        return [places[value] for value in self.values]

    def _name(self, value: int | str, classes: tuple[str, ...]) -> str | None:
        if isinstance(value, str):
            return value
        names = classes if self.names is None else self.names
        return names[value] if value < len(names) else None


def read_labels(folder: Path, path: Path, *, image: str, label: str, prefix: str) -> ParquetLabels:
    """Read all of column `label` of the file `path` below `folder`; of column `image` only the type is checked."""
    with _reading(path), opened(path) as parquet:
        schema, metadata = parquet.schema_arrow, parquet.metadata
        for key, column in (("image", image), ("label", label)):
            _require(column, schema.names, path, f"{prefix}{key}")
        _require_pictures(schema.field(image).type, image, path, f"{prefix}image")
        values = parquet.read(columns=[label]).column(label).to_pylist()
        rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        size = path.stat().st_size
    if sum(rows) != len(values):
        raise ConfigError(f"data: {path} has {len(values):,} labels, should have {sum(rows):,}; fetch it again")
    if wrong := [row for row, value in enumerate(values) if not _is_label(value)]:
        raise ConfigError(
            f"{prefix}label: {path} row {wrong[0]} has {label} {values[wrong[0]]!r}, as have "
            f"{len(wrong):,} of {len(values):,} rows; should be a class's number or name"
        )
    names = _class_names(schema.metadata, label, path, f"{prefix}label")
    return ParquetLabels(ParquetFile(folder, path.relative_to(folder).as_posix(), size, rows), values, names)


def classes_of(splits: Mapping[str, Sequence[ParquetLabels]], key: str) -> tuple[str, ...]:
    """Return the classes recorded in the training files, in the first file's order; else the sorted names in training,
    or the numbers up to the highest of all splits. ConfigError if the files disagree."""
    train = splits["train"]
    if noted := [labels for labels in train if labels.names is not None]:
        first = noted[0]
        for other in noted[1:]:
            if strange := sorted({*first.names} ^ {*other.names}):
                raise ConfigError(
                    f"{key}: {other.path} and {first.path.name} name different classes, such as {strange[0]!r}; "
                    "they are of two data sets"
                )
        return first.names
    values = [value for files in splits.values() for labels in files for value in labels.values]
    if not values or len({isinstance(value, str) for value in values}) > 1:
        raise ConfigError(f"{key}: the rows of {train[0].path.parent} have no label, or names beside numbers")
    if isinstance(values[0], str):
        return tuple(sorted({value for labels in train for value in labels.values}))
    if max(values) >= _MOST_CLASSES:
        raise ConfigError(f"{key}: a row of {train[0].path.parent} has class {max(values)}, no number of a class")
    return tuple(str(label) for label in range(max(values) + 1))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"data: cannot read {path} ({error}), should be a parquet file; fetch it again") from error


def _require(column: str, there: Sequence[str], path: Path, key: str) -> None:
    if column not in there:
        raise ConfigError(
            f"{key}: no column {column!r} in {path}, which has {', '.join(there)}{nearest(column, list(there))}"
        )


def _require_pictures(kind: Any, column: str, path: Path, key: str) -> None:
    """Raise ConfigError unless the column holds bytes, or a struct with bytes."""
    names = [kind.field(number).name for number in range(kind.num_fields)]
    held = str(kind.field(names.index("bytes")).type if "bytes" in names else kind)
    if held not in ("binary", "large_binary", "binary_view", "null"):
        raise ConfigError(
            f"{key}: column {column!r} of {path} holds {str(kind)[:80]}, should be bytes or {{bytes, path}}"
        )


def _is_label(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and value >= 0)


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str, path: Path, key: str) -> tuple[str, ...] | None:
    """Return the class names as Hugging Face records them in a file, or None. ConfigError if they are malformed."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)):
        raise ConfigError(f"{key}: {path} notes its classes as {str(names)[:80]}, should be a name for each number")
    return tuple(names)
