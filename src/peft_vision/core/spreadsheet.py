"""This module writes rows as CSV that a spreadsheet shows and does not run.

A spreadsheet takes a cell that begins with =, +, - or @ for a formula, whoever wrote it. An apostrophe in front of such
a text marks it as text; numbers stay what they are.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

# at the start, and after separators other than the comma; spreadsheets skip blanks and read full-width signs
_FORMULA = re.compile(r"(^|[;\t\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\n])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_csv(file: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows to `file`, which is open for text with newline="". None is an empty cell."""
    csv.writer(file, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    write_csv(file, rows)
    return file.getvalue()


def csv_of_records(records: Sequence[Mapping[str, object]]) -> str:
    """Return a heading of the keys, which all records share, and a row for each record."""
    return csv_text([list(records[0]), *(list(record.values()) for record in records)] if records else [])


def _cell(value: object) -> object:
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", value.replace("\r", "\n"))  # the csv module quotes cells with \n, not with \r
