"""This module runs inside a Slurm job: ahead of the time limit the run saves its state and has Slurm queue it again."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import sleep

from submitit.core.utils import DelayedSubmission, UncompletedJobError
from submitit.helpers import TorchDistributedEnvironment

from peft_vision.core.process_variables import number
from peft_vision.sweep.launch.process_launcher import Job
from peft_vision.sweep.launch.slurm_queue import reminded

_WARNING = signal.SIGUSR2  # submitit's choice
_FATE_SECONDS = 300.0  # for Slurm to end a job that it has sent SIGTERM


@dataclass(frozen=True)
class SlurmJob:
    """A callable that submitit pickles and calls in each task of the job."""

    job: Job

    def __call__(self) -> int:
        """Run the job and return its exit code; do not return if the job is queued again."""
        queue_again = signal.getsignal(_WARNING)  # submitit's handler, called once a warned run has ended by itself
        if "SLURM_CPUS_PER_TASK" in os.environ:
            os.environ.setdefault("OMP_NUM_THREADS", os.environ["SLURM_CPUS_PER_TASK"])
        if (number("SLURM_NTASKS", least=1) or 1) > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        with _output_kept(), reminded(_WARNING):
            exit_code = self.job()
        signal.signal(_WARNING, queue_again)
        if exit_code == 128 + _WARNING:
            try:
                queue_again(_WARNING, None)
            except UncompletedJobError as error:
                self.job.say(f"{error} The same command goes on from the last saved epoch")
        if exit_code == 128 + signal.SIGTERM:
            sleep(_FATE_SECONDS)  # cancelled, or preempted and queued again: Slurm decides which, so report no result
        return exit_code

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit runs after the job was queued again, which is the same job."""
        return DelayedSubmission(self)


@contextmanager
def _output_kept() -> Iterator[None]:
    """Restore this process's output after the block, for submitit's own messages."""
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        yield
    finally:
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
