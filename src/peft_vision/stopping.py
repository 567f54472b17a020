"""Being asked to stop: by SIGTERM, or by SIGUSR2, which Slurm sends ahead of a job's end.

A training ends with the epoch that it is in, its state saved; asked a second time, at once, as everything else does.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, getattr(signal, "SIGUSR2", signal.SIGTERM))  # Windows has no other


class Stopped(BaseException):
    """Like KeyboardInterrupt no fault of what was at work: started again, it goes on."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum  # as a shell has it of a process that a signal ends


@contextmanager
def at_once() -> Iterator[None]:
    """Within, a signal raises Stopped wherever the program is."""

    def stop(signum: int, _: object) -> None:
        raise Stopped(signum)

    with _handling(stop):
        yield


@contextmanager
def when_ready() -> Iterator[Callable[[], int]]:
    """Within, a signal only becomes what the yielded function returns, 0 before; a second one does what it did before.
    Whoever gets to the end all the same is stopped there."""
    signals: list[int] = []
    with _handling(lambda signum, _: (signals.append(signum), restore())) as restore:
        yield lambda: signals[0] if signals else 0
    if signals:
        raise Stopped(signals[0])


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
