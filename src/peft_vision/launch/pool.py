"""Every run in a fresh process of this machine, several at a time.

A server that has imported torch and timm forks them, so that one costs well under a second to start. They end with the
sweep, whatever ends that.
"""

import os
import shlex
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from time import monotonic
from typing import Any

from pydantic import PositiveInt

from peft_vision.config import ConfigError, component
from peft_vision.launch.elsewhere import Elsewhere
from peft_vision.launch.job import Job
from peft_vision.launch.options import checked

_IMPORTED = ["torch", "torchvision", "timm", "wandb", "hydra", "peft_vision.request", "peft_vision.task.train"]
_GRACE_SECONDS = 20.0  # for runs to end by themselves, once they are told to


@component
class PoolOptions:
    """`jobs`: runs at a time; None: one for each device. `devices`: GPUs by number or name, each run sees one of them.
    `threads`: of torch, in each run; None: what torch takes by itself, divided among the runs, or OMP_NUM_THREADS.
    `prefix`: words in front of each command, such as srun's, which then starts a Python of its own."""

    jobs: PositiveInt | None
    devices: tuple[int | str, ...] | None
    threads: PositiveInt | None
    prefix: str | None


class PoolOfProcesses(Elsewhere):
    def __init__(self, **options: Any) -> None:
        self.options: PoolOptions = checked(PoolOptions, options, "hydra.launcher")
        self.at_once = self.options.jobs or len(self.options.devices or ()) or 1
        self.prefix = shlex.split(self.options.prefix or "")
        if self.prefix and shutil.which(self.prefix[0]) is None:
            raise ConfigError(f"hydra.launcher.prefix: no program {self.prefix[0]}")

    def carry_out(self, jobs: Sequence[Job], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        context = get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        waiting = deque(range(len(jobs)))
        slots = deque(range(self.at_once))
        devices = self.options.devices
        running = {}
        try:
            while waiting or running:
                while waiting and slots:
                    number = waiting.popleft()
                    if not starts(number):
                        yield number, 0
                        continue
                    slot = slots.popleft()
                    device = devices[slot % len(devices)] if devices else None
                    process = context.Process(
                        target=work, args=(jobs[number], device, self.options.threads, self.at_once, self.prefix)
                    )
                    process.start()
                    running[process.sentinel] = (process, number, slot)
                for sentinel in wait(list(running)) if running else ():
                    process, number, slot = running.pop(sentinel)
                    process.join()
                    slots.appendleft(slot)
                    yield number, process.exitcode
        finally:
            _end([process for process, _, _ in running.values()])


def work(job: Job, device: int | str | None, threads: int | None, at_once: int, prefix: Sequence[str]) -> None:
    """In the new process: becomes the job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the sweep too, which ends its runs
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    if prefix:
        job.take_output()
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        os.execvp(prefix[0], [*prefix, sys.executable, "-m", "peft_vision.cli", *job.arguments])
    threading.Thread(target=_follow_parent, daemon=True).start()
    import torch  # here, because the process that starts others does not need it

    own = torch.get_num_threads()
    torch.set_num_threads(threads or (own if "OMP_NUM_THREADS" in os.environ else max(1, own // at_once)))
    raise SystemExit(job())


def _follow_parent() -> None:
    """Ends this process when the sweep has been killed: what is saved is whole, and the sweep again goes on from it."""
    wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _end(processes: Sequence) -> None:
    """All of them: told to, then killed."""
    for process in processes:
        process.terminate()
    deadline = monotonic() + _GRACE_SECONDS
    try:
        for process in processes:
            process.join(max(0.0, deadline - monotonic()))
    finally:  # in spite of a second Ctrl-C
        for process in processes:
            process.kill()
            process.join()
