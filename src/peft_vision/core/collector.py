"""This module keeps Python's garbage collector from what is imported: torch and timm are a million objects, none of
them garbage, and looking through them time and again takes an eighth of the start of a command."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports_unscanned() -> Iterator[None]:
    """Let nothing be collected within the block, and leave what is there at its end out of later collections. Where
    torch was imported before, there is nothing to gain, and nothing changes."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        leave_out()


def leave_out() -> None:
    """Leave what is there now out of all later collections, and collect from here on."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries that count their objects at the end take frozen ones for lost
    gc.enable()
