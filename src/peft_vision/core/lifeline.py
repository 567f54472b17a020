"""This module ends a process when the one that started it has ended, even if that one was killed.

A lifeline is a pipe that the starter keeps open: the system closes it, however the starter ends.
"""

import ctypes
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait
from time import sleep

_VARIABLE = "PEFT_VISION_LIFELINE"
_POLL_SECONDS = 1.0
_DIES_WITH_PARENT, _ADOPTS = 1, 36  # options of Linux's prctl: PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER


def follow_parent(then: Callable[[], object] | None = None) -> None:
    """Watch the parent of this multiprocessing process and, when it ends, kill this process or call `then` instead.
    What is saved stays whole, and a later run continues from it."""
    _once(lambda: wait([parent_process().sentinel]), then or _end)


def follow_launcher() -> None:
    """Kill this process when its parent ends; for parents that live as long as their children, such as torchrun."""
    parent = os.getppid()

    def is_gone() -> None:
        while os.getppid() == parent:
            sleep(_POLL_SECONDS)

    _once(is_gone, _end)


@contextmanager
def lifeline() -> Iterator[tuple[int, dict[str, str]]]:
    """Yield a file descriptor that a command inherits, and environment variables that announce it; processes between
    this one and the one that calls `hold` may exec, fork or end."""
    held, kept = os.pipe()
    try:
        yield held, {_VARIABLE: f"{held}:{os.fstat(held).st_ino}"}
    finally:
        os.close(held)
        os.close(kept)


def hold() -> None:
    """Watch the process that gave this command a lifeline, and kill this process when it ends; do nothing without a
    lifeline, or where it was not inherited, as with srun."""
    match = re.fullmatch(r"(\d{1,9}):(\d+)", os.environ.pop(_VARIABLE, ""))
    if match is None:
        return
    held = int(match[1])
    try:
        facts = os.fstat(held)
    except OSError:
        return
    if stat.S_ISFIFO(facts.st_mode) and facts.st_ino == int(match[2]):
        os.set_inheritable(held, False)
        _once(lambda: os.read(held, 1), _end)


def die_with_parent() -> None:
    """Make the system kill this process when its parent ends, even in the middle of an import; this needs Linux."""
    _prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make processes below this one its children when their own parents end; this needs Linux."""
    _prctl(_ADOPTS, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _once(waits: Callable[[], object], then: Callable[[], object]) -> None:
    """Call `then`, in a thread, once `waits` has returned."""
    threading.Thread(target=lambda: (waits(), then()), daemon=True).start()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
