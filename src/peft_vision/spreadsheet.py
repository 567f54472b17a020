"""Rows as CSV that a spreadsheet shows and does not run.

A cell that begins with =, +, - or @ is a formula to it, whoever wrote it. In front of such a text goes an apostrophe,
which spreadsheets take for "this is text"; numbers stay what they are.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

# at the beginning, and behind what parts cells where a comma does not; blanks before it are skipped, wide forms read
_FORMULA = re.compile(r"(^|[;\t\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\n])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_csv(file: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """`file` is open for text with newline="". None is an empty cell."""
    csv.writer(file, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    write_csv(file, rows)
    return file.getvalue()


def csv_of_records(records: Sequence[Mapping[str, object]]) -> str:
    """A heading of the keys, which all records share, and a row for each."""
    return csv_text([list(records[0]), *(list(record.values()) for record in records)] if records else [])


def _cell(value: object) -> object:
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", value.replace("\r", "\n"))  # the csv module quotes a cell for the one and not the other
