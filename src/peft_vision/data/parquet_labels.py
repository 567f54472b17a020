"""This module reads the labels in a parquet file and the class names that the file records.

Each file of a data set may number its classes in a different order: a number means the class that the same file gives
that number.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError, nearest
from peft_vision.data.parquet_rows import File, opened

_MOST_CLASSES = 1_000_000  # limit for numbers without names, so that no list of 2**62 is made


@dataclass(frozen=True)
class ParquetLabels:
    """The labels of a file's rows, as numbers or names. `names`: the class names by number, if the file records
    them."""

    file: File
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
    return ParquetLabels(File(folder, path.relative_to(folder).as_posix(), size, rows), values, names)


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
