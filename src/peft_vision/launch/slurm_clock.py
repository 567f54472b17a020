"""When a job of Slurm ends, which not every Slurm tells its jobs."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import time

_ENDS = "PEFT_VISION_JOB_ENDS"  # seconds since 1970
_MARGIN_SECONDS = 15.0  # for a run that is still in the epoch in which it was warned, to be queued again


def noted(minutes: int) -> str:
    """The command of the shell that a job begins with."""
    return f"export {_ENDS}=$(($(date +%s) + {60 * minutes}))"


@contextmanager
def reminded(signum: int) -> Iterator[None]:
    """Within, this process gets the signal shortly before the end of its job."""
    reminder = threading.Timer(float(os.environ[_ENDS]) - time() - _MARGIN_SECONDS, os.kill, (os.getpid(), signum))
    reminder.daemon = True
    reminder.start()
    try:
        yield
    finally:
        reminder.cancel()
