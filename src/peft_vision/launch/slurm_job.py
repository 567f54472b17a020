"""A run as a job of Slurm, from the inside: ahead of its time limit it saves its state and has Slurm queue it again."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import sleep

from submitit.core.utils import DelayedSubmission, UncompletedJobError
from submitit.helpers import TorchDistributedEnvironment

from peft_vision.launch.job import Job
from peft_vision.launch.slurm_clock import reminded
from peft_vision.ranks import number

_WARNING = signal.SIGUSR2  # submitit's choice
_FATE_SECONDS = 300.0  # for Slurm to end a job that it told to end


@dataclass(frozen=True)
class SlurmJob:
    """A callable that submitit pickles and calls in each task of the job."""

    job: Job

    def __call__(self) -> int:
        """The exit code of the run. Does not return where the job is queued again."""
        queue_again = signal.getsignal(_WARNING)  # submitit's; but a warned run ends when it is ready to
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
            sleep(_FATE_SECONDS)  # cancelled, or making room and queued again: it is for Slurm to say, not for a result
        return exit_code

    def checkpoint(self) -> DelayedSubmission:
        """As submitit asks for what to do after the queue: the same."""
        return DelayedSubmission(self)


@contextmanager
def _output_kept() -> Iterator[None]:
    """Gives this process its output back, for what submitit has to say."""
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        yield
    finally:
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
