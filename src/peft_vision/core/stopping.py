"""This module handles requests to stop: SIGTERM, or SIGUSR2, which Slurm sends ahead of a job's end.

A training ends with the epoch that it is in, its state saved; at a second request it ends at once, as everything else
does at the first. SIGTERM takes effect within ten seconds in any case: its sender is about to kill what is left.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
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
