"""Being asked to stop: by SIGTERM, or by SIGUSR2, which Slurm sends ahead of a job's end.

A training ends with the epoch that it is in, its state saved; asked a second time, at once, as everything else does.
SIGTERM is heard within ten seconds in any case: whoever sends it is about to kill what is left.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

SIGNALS = (signal.SIGTERM, getattr(signal, "SIGUSR2", signal.SIGTERM))  # Windows has no other
STOPPED = "stopped; the same command goes on from the last saved epoch"
PATIENCE_SECONDS = 6.0  # of SIGTERM, for a training to end its epoch
LIMIT_SECONDS = 8.5  # of SIGTERM, for the process to end
_TOGETHER_SECONDS = 1.0  # SIGTERM again is the same asking: sent to a group of processes, and by a parent to each
_LEFT = 0  # the number of no signal


class Stopped(BaseException):
    """Like KeyboardInterrupt no fault of what was at work: started again, it goes on."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum  # as a shell has it of a process that a signal ends


@contextmanager
def at_once() -> Iterator[None]:
    """Within, a signal raises Stopped wherever the program is. Where that is not enough to leave this block within
    LIMIT_SECONDS of SIGTERM, the process ends there, as if it were killed."""

    def stop(signum: int, _: object) -> None:
        raise Stopped(signum)

    with _limited(), _handling(stop):
        yield


@contextmanager
def when_ready() -> Iterator[Callable[[], int]]:
    """Within, a signal only becomes what the yielded function returns, 0 before; a second one does what it did before.
    SIGTERM is followed by one of our own after PATIENCE_SECONDS. Whoever gets to the end all the same is stopped there.
    """
    asked: list[tuple[int, float]] = []  # by what, and when
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
    """`handler` in place of what was there, until the end or until what is yielded is called."""
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
    """Python's handlers wait for a call into a library to return; what reads a pipe hears of a signal meanwhile."""
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    is_left = threading.Event()
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(heard, is_left), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        with suppress(BrokenPipeError):  # it has ended the process, as far as it is concerned
            os.write(tell, bytes([_LEFT]))
        is_left.set()
        os.close(tell)


def _insist(is_hurried: threading.Event, is_left: threading.Event) -> None:
    """Asks a second time where the block is not left in time."""
    is_hurried.wait()
    if not is_left.wait(PATIENCE_SECONDS):
        os.kill(os.getpid(), signal.SIGTERM)


def _end_in_time(heard: int, is_left: threading.Event) -> None:
    """Ends the process if it is told of SIGTERM and the block is not left in time."""
    with open(heard, "rb", buffering=0) as numbers:
        while (number := numbers.read(1)[0]) not in (_LEFT, signal.SIGTERM):
            pass
        if number == signal.SIGTERM and not is_left.wait(LIMIT_SECONDS):
            os.write(2, f"peft-vision: {STOPPED}\n".encode())
            os._exit(128 + signal.SIGTERM)
