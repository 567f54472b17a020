"""Text that a terminal only shows: names of classes and files, and whatever an error repeats of them, come from others.

An escape sequence in such a text moves the cursor, changes a title or hides a line; a character of the other writing
direction turns around what follows it.
"""

import logging
import re
import sys
from pathlib import Path

_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?"  # CSI; OSC and its kind
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # all but the tab and the end of a line
_DIRECTION = "[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
_STRIPPED = re.compile(f"{_SEQUENCE}|{_CONTROL}|{_DIRECTION}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # of a file name that is no UTF-8, or half a pair from JSON


def printable(text: str) -> str:
    """`text` without control characters and escape sequences, but for tabs and ends of lines. The bytes of a file name
    that is no UTF-8 are written as \\xe9, half a character as U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return _SURROGATE.sub(_written, _STRIPPED.sub("", text))


def _written(found: re.Match[str]) -> str:
    byte = ord(found[0]) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else "\ufffd"


def one_line(value: object, *, longest: int = 300) -> str:
    """The same of whatever it is, without ends of lines and cut off where it is long."""
    text = " ".join(printable(str(value)).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def shown(path: Path) -> str:
    """A path as an error names it."""
    return one_line(path, longest=4096)


def say(text: str) -> None:
    """A line, or several, on standard output."""
    print(printable(text))


def complain(text: str) -> None:
    """The same on standard error, at once."""
    print(printable(text), file=sys.stderr, flush=True)


class Printable(logging.Filter):
    """Lets every record pass, in text that may be printed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Puts the values in, since it is these that come from others."""
        record.msg, record.args = printable(record.getMessage()), None
        return True


PRINTABLE = Printable()
"""One for all, since a logger takes the same filter once."""
