"""This module handles requests to stop: SIGTERM, or SIGUSR2, which Slurm sends ahead of a job's end.

A training ends with the epoch that it is in, its state saved; at a second request it ends at once, as everything else
does at the first. SIGTERM takes effect within ten seconds in any case: its sender is about to kill what is left.
"""

import ctypes
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.connection import wait
from time import monotonic, sleep
from typing import Any

SIGNALS = (signal.SIGTERM, getattr(signal, "SIGUSR2", signal.SIGTERM))  # Windows has no SIGUSR2
STOPPED = "stopped; the same command goes on from the last saved epoch"
PATIENCE_SECONDS = 6.0  # from SIGTERM on, for a training to end its epoch
LIMIT_SECONDS = 8.5  # from SIGTERM on, for the process to end
_TOGETHER_SECONDS = 1.0  # a second SIGTERM within it is the same request, sent to a group and by a parent
_LEFT = 0  # the number of no signal


class Stopped(BaseException):
    """The exception for a request to stop. Like KeyboardInterrupt it is no fault of the work, which can be resumed."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum  # as a shell reports a process that a signal ended


@contextmanager
def at_once() -> Iterator[None]:
    """Raise Stopped in the block, wherever the program is, when a signal arrives. If the block is not left within
    LIMIT_SECONDS of SIGTERM, the process ends there, as if it were killed."""

    def stop(signum: int, _: object) -> None:
        raise Stopped(signum)

    with _limited(), _handling(stop):
        yield


@contextmanager
def when_ready() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the signal that has arrived in the block, or 0; a second signal does what it did
    before. SIGTERM is followed by one of this process's own after PATIENCE_SECONDS. Raise Stopped at the end of the
    block if a signal has arrived."""
    asked: list[tuple[int, float]] = []  # the signal, and when it came
    is_hurried, is_left = threading.Event(), threading.Event()

    def note(signum: int, _: object) -> None:
        if not asked:
            asked.append((signum, monotonic()))
            if signum == signal.SIGTERM:
                is_hurried.set()
        elif asked[0][0] != signum or signum != signal.SIGTERM or monotonic() - asked[0][1] > _TOGETHER_SECONDS:
            restore()
            os.kill(os.getpid(), signum)

    threading.Thread(target=_insist, args=(is_hurried, is_left), daemon=True).start()
    try:
        with _handling(note) as restore:
            yield lambda: asked[0][0] if asked else 0
    finally:
        is_left.set()
        is_hurried.set()
    if asked:
        raise Stopped(asked[0][0])


@contextmanager
def _handling(handler: Callable[[int, Any], object]) -> Iterator[Callable[[], None]]:
    """Install `handler` in place of the former ones, until the block ends or the yielded function is called."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}

    def restore() -> None:
        for number, former in before.items():
            signal.signal(number, former)

    try:
        yield restore
    finally:
        restore()


@contextmanager
def _limited() -> Iterator[None]:
    """End the process in time after SIGTERM. Python's handlers wait for a call into a library to return; a thread that
    reads a pipe hears of a signal meanwhile."""
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    is_left = threading.Event()
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(heard, is_left), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        with suppress(BrokenPipeError):  # the thread has stopped reading, to end the process
            os.write(tell, bytes([_LEFT]))
        is_left.set()
        os.close(tell)


def _insist(is_hurried: threading.Event, is_left: threading.Event) -> None:
    """Send a second SIGTERM if the block is not left in time."""
    is_hurried.wait()
    if not is_left.wait(PATIENCE_SECONDS):
        os.kill(os.getpid(), signal.SIGTERM)


def _end_in_time(heard: int, is_left: threading.Event) -> None:
    """End the process if SIGTERM arrives and the block is not left in time."""
    with open(heard, "rb", buffering=0) as numbers:
        while (number := numbers.read(1)[0]) not in (_LEFT, signal.SIGTERM):
            pass
        if number == signal.SIGTERM and not is_left.wait(LIMIT_SECONDS):
            os.write(2, f"peft-vision: {STOPPED}\n".encode())
            os._exit(128 + signal.SIGTERM)


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
