"""This module submits every run of a sweep as a Slurm job, through submitit, in arrays as large as Slurm allows.

The sweep waits for its jobs. If the sweep is killed they go on, and the same sweep again submits what is not done by
then.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from time import sleep
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from peft_vision.core.config import ConfigError
from peft_vision.sweep.launch.process_launcher import Job, ProcessLauncher
from peft_vision.sweep.launch.slurm_queue import Queue, Submitted, cancel, largest_array, noted

logger = logging.getLogger("peft_vision")
_LATE_POLLS = 3  # a shared file system may show what a job wrote at its end that many polls late


@dataclass(frozen=True)
class SlurmOptions:
    """The options of the launcher. `folder`: for submitit's files, which all nodes have to see. `poll_seconds`: between
    two looks at the queue. `max_num_timeout`: how often a job is queued again when its time is up. `cancel`: whether
    the jobs end with the sweep. `timeout_min`: the time limit of a job, which submitit always sets. `sbatch`: further
    options of sbatch, under submitit's names. None stands for Slurm's default. ConfigError without a time limit."""

    folder: str
    poll_seconds: float
    max_num_timeout: int
    cancel: bool
    timeout_min: int
    cpus_per_task: int | None
    tasks_per_node: int
    mem_gb: float | None
    name: str
    setup: Sequence[str]
    sbatch: Mapping[str, Any]

    def __post_init__(self) -> None:
        if type(self.timeout_min) is not int or self.timeout_min < 1:
            raise ConfigError(
                f"hydra.launcher.timeout_min: got {self.timeout_min!r}, should be whole minutes, from 1 on"
            )

    def for_submitit(self) -> dict[str, Any]:
        """Return the options of each job as submitit names them."""
        return {
            **self.sbatch,
            "job_name": self.name,
            "time": self.timeout_min,
            "cpus_per_task": self.cpus_per_task,
            # since Slurm 22.05 srun does not inherit this from sbatch
            "srun_args": None if self.cpus_per_task is None else [f"--cpus-per-task={self.cpus_per_task}"],
            "ntasks_per_node": self.tasks_per_node,
            "mem": None if self.mem_gb is None else f"{round(1024 * self.mem_gb)}M",
            # first, since the user's commands count towards the job's time limit
            "setup": [noted(self.timeout_min), *self.setup],
        }


_OWN = {field.name for field in fields(SlurmOptions)} - {"sbatch"}


class SlurmLauncher(ProcessLauncher):
    """A launcher that submits runs to Slurm, with `SlurmOptions`, of which those of sbatch are given one by one."""

    at_once = None

    def __init__(self, **options: Any) -> None:
        own = {name: value for name, value in options.items() if name in _OWN}
        sbatch = {name: value for name, value in options.items() if name not in _OWN}
        self.options = SlurmOptions(**own, sbatch=sbatch)
        self.submits_to = Path(self.options.folder).expanduser().absolute()
        given = self.options.for_submitit()
        self.parameters = {name: _plain(value) for name, value in given.items() if value is not None}

    def carry_out(self, jobs: Sequence[Job], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        waiting = dict(enumerate(self._submit(jobs)))
        try:
            yield from self._followed(waiting, starts)
        finally:
            if self.options.cancel:
                cancel(job.job_id for job in waiting.values())
            elif waiting:
                logger.info("%d jobs of Slurm go on by themselves", len(waiting))

    def _submit(self, jobs: Sequence[Job]) -> list["Submitted"]:
        """Submit the jobs in arrays as large as Slurm allows. If one cannot be submitted, cancel the others and raise
        ConfigError."""
        if find_spec("submitit") is None:
            raise ConfigError("hydra/launcher: jobs of Slurm need submitit; pip install 'peft-vision[slurm]'")
        if shutil.which("sbatch") is None:
            raise ConfigError("hydra/launcher: no sbatch here; start the sweep where jobs are submitted to Slurm")
        # here, because other launchers do without, and help answers without torch
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from peft_vision.runs.run import writing
        from peft_vision.sweep.launch.slurm_job import SlurmJob

        with writing(self.submits_to, key="hydra.launcher.folder"):
            self.submits_to.mkdir(parents=True, exist_ok=True)
        executor = SlurmExecutor(self.submits_to, max_num_timeout=self.options.max_num_timeout)
        submitted: list[Submitted] = []
        size = largest_array()
        try:
            executor.update_parameters(**self.parameters)
            for first in range(0, len(jobs), size):
                part = jobs[first : first + size]
                with executor.batch():
                    array = [executor.submit(SlurmJob(job)) for job in part]
                pairs = zip(array, part, strict=True)
                submitted += [Submitted(submitit_job.job_id, self.submits_to, job) for submitit_job, job in pairs]
                number = submitted[-1].job_id.partition("_")[0]
                logger.info("Slurm's job %s: %d runs; squeue --jobs=%s shows them", number, len(part), number)
        except (FailedJobError, FailedSubmissionError, OSError, TypeError, ValueError) as error:
            raise ConfigError(f"hydra.launcher: {str(error).strip()}") from error
        finally:
            if len(submitted) < len(jobs):
                cancel(job.job_id for job in submitted)
        return submitted

    def _followed(self, waiting: dict[int, "Submitted"], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        """Yield the number and exit code of each job as it ends, and remove it from `waiting`."""
        queue = Queue()
        begun: set[str] = set()
        held: set[str] = set()
        seen_over: Counter[str] = Counter()
        while waiting:
            standings = queue.look([job.job_id for job in waiting.values()])
            for number, job in list(waiting.items()):
                job_id, standing = job.job_id, standings[job.job_id]
                if standing.state == "RUNNING" and job_id not in begun:
                    begun.add(job_id)
                    starts(number)
                if standing.is_held and job_id not in held:
                    held.add(job_id)
                    logger.warning("Slurm holds job %s back (%s): scontrol release %s", job_id, standing.reason, job_id)
                seen_over[job_id] = seen_over[job_id] + 1 if standing.is_over else 0
                exit_code = job.exit_code()
                if exit_code is None and seen_over[job_id] > _LATE_POLLS:
                    exit_code = job.lost(standing.state)
                if exit_code is not None:
                    del waiting[number]
                    yield number, exit_code
            if waiting:
                sleep(self.options.poll_seconds)


def _plain(value: object) -> object:
    """Return OmegaConf's lists and dictionaries as Python's, for submitit, and other values as they are."""
    return OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
