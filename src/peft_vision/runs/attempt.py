"""This module identifies the attempt at a run: one that begins anew is a new attempt, another run to a tracker."""

import re
import secrets
from pathlib import Path

from peft_vision.core.records import exists, read_bytes
from peft_vision.runs.run import place

_NAME = ".attempt"
_LARGEST = 64  # bytes of the file


def attempt(folder: Path, *, anew: bool) -> str:
    """Return the 8 hex digits of the folder's attempt, drawn afresh if `anew`; "" if an earlier version began it."""
    path = folder / _NAME
    if anew:
        place(path, lambda path: path.write_text(f"{secrets.token_hex(4)}\n"))
    if not exists(path):
        return ""
    said = read_bytes(path, largest=_LARGEST, remedy="delete it").decode(errors="replace").strip()
    return said if re.fullmatch("[0-9a-f]{8}", said) else ""


def mirrored_as(identity: str, folder: Path, *, anew: bool) -> str:
    """Return the id under which a tracker mirrors the present attempt at a run."""
    return "-".join(filter(None, (identity, attempt(folder, anew=anew))))
