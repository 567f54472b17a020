"""The attempt at a run: one that begins anew is another one, and to whoever watches from afar another run."""

import re
import secrets
from pathlib import Path

from peft_vision.records import exists, read_bytes
from peft_vision.run import place

_NAME = ".attempt"
_LARGEST = 64  # bytes of the file


def attempt(folder: Path, *, anew: bool) -> str:
    """8 hex digits, which stay in the folder until it is tried anew; "" for what an earlier version began."""
    path = folder / _NAME
    if anew:
        place(path, lambda path: path.write_text(f"{secrets.token_hex(4)}\n"))
    if not exists(path):
        return ""
    said = read_bytes(path, largest=_LARGEST, remedy="delete it").decode(errors="replace").strip()
    return said if re.fullmatch("[0-9a-f]{8}", said) else ""


def mirrored_as(identity: str, folder: Path, *, anew: bool) -> str:
    """The id of what stands for it elsewhere."""
    return "-".join(filter(None, (identity, attempt(folder, anew=anew))))
