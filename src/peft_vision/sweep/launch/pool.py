"""This module executes every run of a sweep in a fresh process of this machine, several at a time.

A server that has imported torch and timm forks the processes, so that each takes well under a second to start. They end
with the sweep, however it ends.
"""

import os
import shlex
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

from pydantic import PositiveInt

from peft_vision.core.collector import leave_out
from peft_vision.core.config import ConfigError, component
from peft_vision.core.stopping import follow_parent
from peft_vision.sweep.launch.process_launcher import Job, ProcessLauncher, checked
from peft_vision.sweep.launch.tree import carried_out

_IMPORTED = [
    "peft_vision.sweep.launch.server",  # first, to end with the sweep during the other imports
    *("torch", "torchvision", "timm", "wandb", "hydra", "peft_vision.core.composition", "peft_vision.task.train"),
]
_STARTS = 3  # tries to start a process, since the server may die meanwhile
_SERVER_DIED = 255  # multiprocessing's exit code for a process whose server died; the process may still be at work


class Worker:
    """A process that runs one job. `slot`: its place among the processes at work at the same time. The process reports
    its own exit code; if it cannot, the server does."""

    def __init__(self, job: Job, slot: int, *settings: object) -> None:
        """Start the process; `settings`: further arguments of `work`. ConfigError if no process can be started."""
        self.job, self.slot = job, slot
        self._is_watched = True
        context = get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        for _ in range(_STARTS):
            self._said, says = context.Pipe(duplex=False)
            self._process = context.Process(target=work, args=(says, job, *settings))
            try:
                self._process.start()
                return
            except (EOFError, OSError) as error:
                fault = error
                self._said.close()
            finally:
                says.close()
        raise ConfigError(f"hydra.launcher: no process for a run: {str(fault) or 'the one that forks them is killed'}")

    @property
    def sentinel(self) -> int | Connection:
        """The object that becomes ready, for multiprocessing's `wait`, when `exit_code` may have changed."""
        return self._process.sentinel if self._is_watched else self._said

    def exit_code(self) -> int | None:
        """Return the exit code, once the sentinel is ready; None if the process is still at work and only the server,
        which would have reported its end, is gone."""
        if self._is_watched:
            self._process.join()
        code = self._process.exitcode
        try:
            if self._said.poll():
                return self._said.recv()
        except (EOFError, OSError):  # the process ended without reporting a code
            if code != _SERVER_DIED:
                return code
            self.job.say("killed, and so was the process that forks the runs of a sweep")
            return 1
        if code != _SERVER_DIED:  # a process that it had forked keeps the pipe open
            return code
        self._is_watched = False
        return None

    def send(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signum)


def work(
    says: Connection, job: Job, device: int | str | None, threads: int | None, at_once: int, prefix: Sequence[str]
) -> None:
    """Run the job in the new process, send the exit code to `says`, and exit with it."""
    leave_out()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the sweep too, which ends its runs
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    if prefix:
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        run = [sys.executable, "-m", "peft_vision.cli", *job.arguments]
        code = carried_out(prefix, run) if job.takes_output() else 1
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        follow_parent()
        _share_threads(threads, at_once)
        code = job()
    with suppress(OSError):  # the sweep is gone
        says.send(code)
    raise SystemExit(code)


def _share_threads(threads: int | None, at_once: int) -> None:
    import torch  # here, because the process that starts others does not need it

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(
        threads or (torch_threads if "OMP_NUM_THREADS" in os.environ else max(1, torch_threads // at_once))
    )


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
