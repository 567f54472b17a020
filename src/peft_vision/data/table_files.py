"""This module reads the columns of a table of pictures: a CSV, TSV or parquet file, with every cell as text.

Rows are counted as a spreadsheet counts them, from 1, which is the header; in parquet files, which have none, from 1.
Rows without any text are passed over.
"""

import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError, nearest
from peft_vision.core.output import shown
from peft_vision.core.records import Unreadable, read_bytes
from peft_vision.data.parquet_rows import opened
from peft_vision.data.reading import LARGEST_TEXT, first_few, quoted, reading, short

DELIMITERS = {",": ",", ";": ";", "|": "|", "tab": "\t"}
_EXPECTED = "a table with a header, in UTF-8"
_TAB_ENDINGS = (".tsv", ".tab")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

TableCell = str | tuple[str, ...]
"""The text of a cell, or the texts of a list in a parquet file."""


@dataclass(frozen=True)
class TableFile:
    """The `cells` of some columns of a table, by the names of the columns, and the `rows` that they are in. `key`: the
    option that names the file, for messages."""

    path: Path
    key: str
    rows: Sequence[int]
    cells: Mapping[str, Sequence[TableCell]]

    def require(
        self, column: str, places: Iterable[int], is_right: Callable[[TableCell], bool], *, what: str, wanted: str
    ) -> None:
        """Raise ConfigError unless the cells of a column at `places` are right: for the first that is not, with the
        number of the others. `what` the cells hold; what they `wanted` to be is said behind "should be"."""
        places = list(places)
        if wrong := [place for place in places if not is_right(self.cells[column][place])]:
            cell = self.cells[column][wrong[0]]
            found = f"no {what}" if not cell else f"{what} {quoted(cell)}"
            raise self.fault(wrong, len(places), f"has {found} in column {short(column)!r}, should be {wanted}")

    def fault(self, places: Sequence[int], total: int, text: str) -> ConfigError:
        """Return the error for the rows at `places` of a `total`, of which `text` says about the first what is
        wrong."""
        more = f"; so have {len(places) - 1:,} more of {total:,} rows" if places[1:] else ""
        return ConfigError(f"{self.key}: {shown(self.path)} row {self.rows[places[0]]} {text}{more}")


def read_columns(path: Path, columns: Mapping[str, Collection[str]], *, delimiter: str | None, key: str) -> TableFile:
    """Return the cells of `columns`, names by the option that asks for them. `delimiter`: one of DELIMITERS, None for
    the one of the file's ending. ConfigError, which begins with `key`, for a file that is no table, without rows, or
    without one of the columns."""
    is_parquet = path.suffix.lower() == ".parquet"
    header, rows = (_parquet if is_parquet else _csv)(path, columns, delimiter=delimiter, key=key)
    rows = [(number, cells) for number, cells in rows if any(cells)]
    if not rows:
        raise ConfigError(f"{key}: {shown(path)} has no rows{'' if is_parquet else ' below its header'}")
    wanted = dict.fromkeys(name for names in columns.values() for name in names)
    places = {name: header.index(name) for name in wanted}
    cells = {name: [values[place] for _, values in rows] for name, place in places.items()}
    return TableFile(path, key, [number for number, _ in rows], cells)


def _csv(
    path: Path, columns: Mapping[str, Collection[str]], *, delimiter: str | None, key: str
) -> tuple[list[str], list[tuple[int, list[TableCell]]]]:
    """Return the header of a text file and its rows below, with their numbers."""
    usual = "\t" if path.suffix.lower() in _TAB_ENDINGS else ","
    delimiter = usual if delimiter is None else DELIMITERS[delimiter]
    with reading(path, _EXPECTED, key=key, remedy=""):
        lines = _records(path, _text(path), delimiter)
    if not lines or not any(lines[0]):
        raise ConfigError(f"{key}: {shown(path)} is empty or has no header, should be {_EXPECTED}")
    header = lines[0]
    _require_columns(header, columns, path, _other_delimiter(header))
    for number, cells in enumerate(lines[1:], start=2):
        if any(cells) and len(cells) != len(header):
            raise ConfigError(
                f"{key}: {shown(path)} row {number} has {len(cells)} cells, should have {len(header)} as the header; "
                "a cell with a delimiter stands in quotes"
            )
    return header, list(enumerate(lines[1:], start=2))


def _text(path: Path) -> str:
    content = read_bytes(path, largest=LARGEST_TEXT)
    if content.startswith(_UTF16):
        raise Unreadable(path, "it is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")  # passes over the mark that spreadsheets put first
    except UnicodeDecodeError as error:
        raise Unreadable(path, f"it is not UTF-8 in byte {error.start + 1:,}") from error
    if "\0" in text:
        raise Unreadable(path, "it holds null bytes, as no text does")
    return text


def _records(path: Path, text: str, delimiter: str) -> list[list[TableCell]]:
    """Return the cells of every row, without space around them."""
    found = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            found.append([cell.strip() for cell in cells])
    except csv.Error as error:  # a quote that does not end makes a cell of the rest
        raise Unreadable(path, f"row {len(found) + 1}: {error}") from error
    return found


def _other_delimiter(header: Sequence[str]) -> str:
    """Return a hint if a header of one cell seems to be separated otherwise."""
    seems = [name for name, mark in DELIMITERS.items() if len(header) == 1 and mark in header[0]]
    return f"\ndata.delimiter={seems[0]!r} is what seems to separate its cells" if seems else ""


def _parquet(
    path: Path, columns: Mapping[str, Collection[str]], *, delimiter: str | None, key: str
) -> tuple[list[str], list[tuple[int, list[TableCell]]]]:
    """Return the names of the columns of a parquet file that are read, and its rows, with their numbers."""
    if delimiter is not None:
        raise ConfigError(f"data.delimiter: got {delimiter!r}, but {shown(path)} is a parquet file (null)")
    with reading(path, "a parquet file", key=key, remedy=""), opened(path) as file:
        header = list(file.schema_arrow.names)
        _require_columns(header, columns, path, "")
        names = list(dict.fromkeys(name for of_option in columns.values() for name in of_option))
        table = file.read(columns=names, use_threads=False)
        texts = [[_cell(value) for value in table.column(name).to_pylist()] for name in names]
    if wrong := [name for name, column in zip(names, texts, strict=True) if None in column]:
        row = texts[names.index(wrong[0])].index(None) + 1
        raise ConfigError(
            f"{key}: {shown(path)} row {row} has no text, number or list of texts in column {short(wrong[0])!r}; "
            "pictures within parquet files are for data=parquet"
        )
    return names, [(number, list(cells)) for number, cells in enumerate(zip(*texts, strict=True), start=1)]


def _cell(value: Any) -> TableCell | None:
    """Return a value as text: "" for a missing one, 3 for 3.0, which pandas makes of whole numbers beside missing ones.
    None for a value of another kind."""
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case str() | int():
            return str(value).strip()
        case list() if all(isinstance(one, str | int) for one in value):
            return tuple(str(one).strip() for one in value)
    return None


def _require_columns(header: Sequence[str], columns: Mapping[str, Collection[str]], path: Path, hint: str) -> None:
    for option, names in columns.items():
        for name in names:
            if header.count(name) > 1:
                raise ConfigError(f"{option}: {shown(path)} has {header.count(name)} columns {short(name)!r}")
            if name not in header:
                raise ConfigError(
                    f"{option}: no column {short(name)!r} in {shown(path)}, which has "
                    f"{first_few(header)}{nearest(name, list(header))}{hint}"
                )
