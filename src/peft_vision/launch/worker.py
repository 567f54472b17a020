"""This module starts a process of this machine for one job, forked from a server that has imported torch and timm."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

from peft_vision.core.config import ConfigError
from peft_vision.core.lifeline import follow_parent
from peft_vision.launch.job import Job
from peft_vision.launch.tree import carried_out

_IMPORTED = ["torch", "torchvision", "timm", "wandb", "hydra", "peft_vision.core.request", "peft_vision.task.train"]
_IMPORTED = ["peft_vision.launch.server", *_IMPORTED]
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the sweep too, which ends its runs
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    if prefix:
        job.take_output()
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        code = carried_out(prefix, [sys.executable, "-m", "peft_vision.cli", *job.arguments])
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
