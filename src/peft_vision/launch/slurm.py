"""Every run of a sweep as a job of Slurm, through submitit; all of them are one array.

The sweep waits for its jobs. Where it is killed they go on, and the same sweep again submits what is not done by then.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from peft_vision.config import ConfigError
from peft_vision.launch.elsewhere import Elsewhere
from peft_vision.launch.job import Job
from peft_vision.launch.slurm_clock import noted
from peft_vision.launch.slurm_queue import Queue, cancel, largest_array

if TYPE_CHECKING:
    from peft_vision.launch.submitted import Submitted

logger = logging.getLogger("peft_vision")
_LATE_POLLS = 3  # a shared file system may show that much later what a job wrote at its end


class JobsOfSlurm(Elsewhere):
    """`folder`: for submitit's files, which all nodes have to see. `poll_seconds`: between two looks at the queue.
    `max_num_timeout`: how often a job is queued again when its time is up. `cancel`: whether the jobs end with the
    sweep. `sbatch`: what else submitit knows of sbatch, in its words. None: Slurm's default."""

    at_once = None

    def __init__(
        self,
        *,
        folder: str,
        poll_seconds: float,
        max_num_timeout: int,
        cancel: bool,
        timeout_min: int,
        cpus_per_task: int | None,
        tasks_per_node: int,
        mem_gb: float | None,
        name: str,
        setup: Sequence[str],
        **sbatch: Any,
    ) -> None:
        self.submits_to = Path(folder).absolute()
        self.poll_seconds = poll_seconds
        self.max_num_timeout = max_num_timeout
        self.cancels = cancel
        of_submitit = {
            **sbatch,
            "job_name": name,
            "time": timeout_min,
            "cpus_per_task": cpus_per_task,
            # which srun does not take from sbatch any more, since 22.05
            "srun_args": None if cpus_per_task is None else [f"--cpus-per-task={cpus_per_task}"],
            "ntasks_per_node": tasks_per_node,
            "mem": None if mem_gb is None else f"{round(1024 * mem_gb)}M",
            # first, since the user's commands take of the job's time
            "setup": [noted(timeout_min), *setup],
        }
        self.parameters = {name: _plain(value) for name, value in of_submitit.items() if value is not None}

    def carry_out(self, jobs: Sequence[Job], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        waiting = dict(enumerate(self._submit(jobs)))
        try:
            yield from self._followed(waiting, starts)
        finally:
            if self.cancels:
                cancel(its.job_id for its in waiting.values())
            elif waiting:
                logger.info("%d jobs of Slurm go on by themselves", len(waiting))

    def _submit(self, jobs: Sequence[Job]) -> list["Submitted"]:
        """In arrays as large as Slurm takes them."""
        if find_spec("submitit") is None:
            raise ConfigError("hydra/launcher: jobs of Slurm need submitit; pip install 'peft-vision[slurm]'")
        if shutil.which("sbatch") is None:
            raise ConfigError("hydra/launcher: no sbatch here; start the sweep where jobs are submitted to Slurm")
        # here, because other launchers do without
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from peft_vision.launch.slurm_job import SlurmJob
        from peft_vision.launch.submitted import Submitted

        executor = SlurmExecutor(self.submits_to, max_num_timeout=self.max_num_timeout)
        submitted: list[Submitted] = []
        size = largest_array()
        try:
            executor.update_parameters(**self.parameters)
            for first in range(0, len(jobs), size):
                part = jobs[first : first + size]
                with executor.batch():
                    array = [executor.submit(SlurmJob(job)) for job in part]
                pairs = zip(array, part, strict=True)
                submitted += [Submitted(its.job_id, self.submits_to, job) for its, job in pairs]
                number = submitted[-1].job_id.partition("_")[0]
                logger.info("Slurm's job %s: %d runs; squeue --jobs=%s shows them", number, len(part), number)
        except (FailedJobError, FailedSubmissionError, TypeError, ValueError) as error:
            raise ConfigError(f"hydra.launcher: {str(error).strip()}") from error
        finally:
            if len(submitted) < len(jobs):
                cancel(its.job_id for its in submitted)
        return submitted

    def _followed(self, waiting: dict[int, "Submitted"], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        """Takes out of `waiting` what has ended."""
        queue = Queue()
        begun: set[str] = set()
        held: set[str] = set()
        seen_over: Counter[str] = Counter()
        while waiting:
            standings = queue.look([its.job_id for its in waiting.values()])
            for number, its in list(waiting.items()):
                job_id, standing = its.job_id, standings[its.job_id]
                if standing.state == "RUNNING" and job_id not in begun:
                    begun.add(job_id)
                    starts(number)
                if standing.is_held and job_id not in held:
                    held.add(job_id)
                    logger.warning("Slurm holds job %s back (%s): scontrol release %s", job_id, standing.reason, job_id)
                seen_over[job_id] = seen_over[job_id] + 1 if standing.is_over else 0
                exit_code = its.exit_code()
                if exit_code is None and seen_over[job_id] > _LATE_POLLS:
                    exit_code = its.lost(standing.state)
                if exit_code is not None:
                    del waiting[number]
                    yield number, exit_code
            if waiting:
                sleep(self.poll_seconds)


def _plain(value: object) -> object:
    """Lists and dictionaries of Python's, for submitit."""
    return OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
