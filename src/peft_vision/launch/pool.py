"""This module executes every run of a sweep in a fresh process of this machine, several at a time.

A server that has imported torch and timm forks the processes, so that each takes well under a second to start. They end
with the sweep, however it ends.
"""

import shlex
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from time import monotonic
from typing import Any

from pydantic import PositiveInt

from peft_vision.core.config import ConfigError, component
from peft_vision.launch.elsewhere import ProcessLauncher
from peft_vision.launch.job import Job
from peft_vision.launch.options import checked
from peft_vision.launch.worker import Worker

_GRACE_SECONDS = 7.5  # for runs to end by themselves after SIGTERM: within the time that the sweep itself has to end
_KILLED_SECONDS = 1.0  # for the system to end processes after SIGKILL


@component
class PoolOptions:
    """The options of the pool. `jobs`: runs at a time; None: one for each device. `devices`: GPUs by number or name, of
    which each run sees one. `threads`: torch's threads in each run; None: OMP_NUM_THREADS or else torch's default
    divided among the runs. `prefix`: words in front of each command, such as srun's; each run then starts a Python of
    its own."""

    jobs: PositiveInt | None
    devices: tuple[int | str, ...] | None
    threads: PositiveInt | None
    prefix: str | None


class PoolLauncher(ProcessLauncher):
    def __init__(self, **options: Any) -> None:
        self.options: PoolOptions = checked(PoolOptions, options, "hydra.launcher")
        self.at_once = self.options.jobs or len(self.options.devices or ()) or 1
        self.prefix = shlex.split(self.options.prefix or "")
        if self.prefix and shutil.which(self.prefix[0]) is None:
            raise ConfigError(f"hydra.launcher.prefix: no program {self.prefix[0]}")

    def carry_out(self, jobs: Sequence[Job], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        waiting = deque(range(len(jobs)))
        slots = deque(range(self.at_once))
        devices = self.options.devices
        running: dict[int, Worker] = {}
        try:
            while waiting or running:
                while waiting and slots:
                    number = waiting.popleft()
                    if not starts(number):
                        yield number, 0
                        continue
                    slot = slots.popleft()
                    device = devices[slot % len(devices)] if devices else None
                    running[number] = Worker(
                        jobs[number], slot, device, self.options.threads, self.at_once, self.prefix
                    )
                for number, exit_code in _ended(running, None) if running else ():
                    slots.appendleft(running.pop(number).slot)
                    yield number, exit_code
        finally:
            _end(running)


def _ended(workers: dict[int, Worker], seconds: float | None) -> list[tuple[int, int]]:
    """Wait until a worker may have ended, or for `seconds`; return the numbers and exit codes of those that have."""
    numbers = {workers[number].sentinel: number for number in workers}
    codes = [(numbers[ready], workers[numbers[ready]].exit_code()) for ready in wait(list(numbers), seconds)]
    return [(number, code) for number, code in codes if code is not None]


def _end(workers: dict[int, Worker]) -> None:
    """Terminate all workers, then kill those that are left."""
    for worker in workers.values():
        worker.send(signal.SIGTERM)
    try:
        _await(workers, _GRACE_SECONDS)
    finally:  # even after a second Ctrl-C
        for worker in workers.values():
            worker.send(signal.SIGKILL)
        _await(workers, _KILLED_SECONDS)


def _await(workers: dict[int, Worker], seconds: float) -> None:
    """Wait for up to `seconds`, and remove the workers that end from `workers`."""
    deadline = monotonic() + seconds
    while workers and (left := deadline - monotonic()) > 0:
        for number, _ in _ended(workers, left):
            del workers[number]
