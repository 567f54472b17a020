"""This module writes text that comes from others (names of classes and files, errors that repeat them): to a terminal
without control characters and markup, and to a spreadsheet without formulas.
"""

import csv
import io
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?"  # CSI; OSC and its kind
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # all except the tab and the end of a line
_DIRECTION = "[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
_STRIPPED = re.compile(f"{_SEQUENCE}|{_CONTROL}|{_DIRECTION}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # from a file name that is not UTF-8, or half a pair from JSON


def printable(text: str) -> str:
    """Return `text` without control characters, escape sequences and marks of writing direction; tabs and line ends
    stay. The bytes of a file name that is not UTF-8 are written as \\xe9, half a character as U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return _SURROGATE.sub(_written, _STRIPPED.sub("", text))


def _written(found: re.Match[str]) -> str:
    byte = ord(found[0]) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else "\ufffd"


def one_line(value: object, *, longest: int = 300) -> str:
    """Return any value as printable text on one line, cut off after `longest` characters."""
    text = " ".join(printable(str(value)).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(path: Path) -> str:
    """Return a path as an error names it."""
    return one_line(path, longest=4096)


def say(text: str) -> None:
    """Print text on standard output, made printable."""
    print(printable(text))


def complain(text: str) -> None:
    """Print text on standard error at once, made printable."""
    print(printable(text), file=sys.stderr, flush=True)


class Printable(logging.Filter):
    """A logging filter that lets every record pass and makes its text printable."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Format the values into the message, since the values come from others, and make it printable."""
        record.msg, record.args = printable(record.getMessage()), None
        return True


PRINTABLE = Printable()
"""The only instance, since a logger adds the same filter only once."""


class Console(RichConsole):
    """A rich console that prints plain text as it is; colours come from styles alone."""

    def __init__(self, **options: object) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render text without control characters; rich's own control segments, which move the cursor, pass
        unchanged."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


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
