"""A process of this machine for one job, forked from a server that has imported torch and timm."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

from peft_vision.config import ConfigError
from peft_vision.launch.job import Job
from peft_vision.launch.tree import carried_out
from peft_vision.lifeline import follow_parent

_IMPORTED = ["torch", "torchvision", "timm", "wandb", "hydra", "peft_vision.request", "peft_vision.task.train"]
_IMPORTED = ["peft_vision.launch.server", *_IMPORTED]
_STARTS = 3  # tries, where the server dies meanwhile
_SERVER_DIED = 255  # what multiprocessing takes for the exit code of a process then, which may be at work all the same


class Worker:
    """`slot`: its place among those at work at the same time. Told by itself of its end, and else by the server."""

    def __init__(self, job: Job, slot: int, *settings: object) -> None:
        """`settings`: further arguments of `work`. ConfigError where no process can be started."""
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
        """Ready, for multiprocessing's `wait`, when `exit_code` may have something new to tell."""
        return self._process.sentinel if self._is_watched else self._said

    def exit_code(self) -> int | None:
        """Once the sentinel is ready. None: still at work, only the server is gone that would have told."""
        if self._is_watched:
            self._process.join()
        code = self._process.exitcode
        try:
            if self._said.poll():
                return self._said.recv()
        except (EOFError, OSError):  # it ended without a word
            if code != _SERVER_DIED:
                return code
            self.job.say("killed, and so was the process that forks the runs of a sweep")
            return 1
        if code != _SERVER_DIED:  # a process that it had forked keeps the line open
            return code
        self._is_watched = False
        return None

    def send(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signum)


def work(
    says: Connection, job: Job, device: int | str | None, threads: int | None, at_once: int, prefix: Sequence[str]
) -> None:
    """In the new process: becomes the job."""
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
    with suppress(OSError):  # nobody hears it any more
        says.send(code)
    raise SystemExit(code)


def _share_threads(threads: int | None, at_once: int) -> None:
    import torch  # here, because the process that starts others does not need it

    own = torch.get_num_threads()
    torch.set_num_threads(threads or (own if "OMP_NUM_THREADS" in os.environ else max(1, own // at_once)))
