"""This module makes text safe to print: names of classes and files, and errors that repeat them, come from others.

An escape sequence in such a text moves the cursor, changes a title or hides a line; a character of the other writing
direction turns around what follows it.
"""

import logging
import re
import sys
from pathlib import Path

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
