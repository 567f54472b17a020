"""This module keeps the time at which a Slurm job will end, which not every Slurm tells its jobs."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import time

_ENDS = "PEFT_VISION_JOB_ENDS"  # seconds since 1970
_MARGIN_SECONDS = 15.0  # to queue a run again that is still in the epoch in which it was warned


def noted(minutes: int) -> str:
    """Return the shell command that a job begins with, which exports the time of its end; `minutes`: its time limit."""
    return f"export {_ENDS}=$(($(date +%s) + {60 * minutes}))"


@contextmanager
def reminded(signum: int) -> Iterator[None]:
    """Send this process the signal shortly before the end of its job, unless the block has ended by then."""
    reminder = threading.Timer(float(os.environ[_ENDS]) - time() - _MARGIN_SECONDS, os.kill, (os.getpid(), signum))
    reminder.daemon = True
    reminder.start()
    try:
        yield
    finally:
        reminder.cancel()
