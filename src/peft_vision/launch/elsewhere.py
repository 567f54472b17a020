"""Hydra launchers that give every run of a sweep a process of its own.

Runs that share a process leak state into each other: the threads of torch, its default type, what a library keeps.
"""

import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from peft_vision.launch.job import Job

_OF_THE_SWEEP = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode", "hydra.sweep")


class Elsewhere(Launcher):
    """A subclass says how jobs are carried out."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    @abstractmethod
    def carry_out(self, jobs: Sequence[Job], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        """The number of each job and its exit code, as they end; a signal that killed it is negative.

        `starts(number)` is called when one begins; where it is called before, False says that there is nothing left to
        do, which is exit code 0. When the iterator is closed, what still runs is ended.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """As Hydra's own sweepers call it."""
        setup_globals()
        jobs = [
            self.job(overrides, self.folder / f"{initial_job_idx + n}") for n, overrides in enumerate(job_overrides)
        ]
        returns = [JobReturn(overrides=list(overrides)) for overrides in job_overrides]
        for number, exit_code in self.carry_out(jobs, lambda number: True):
            fault = jobs[number].fault(exit_code)
            returns[number].return_value = fault
            returns[number].status = JobStatus.COMPLETED if fault is None else JobStatus.FAILED
        return returns

    @property
    def folder(self) -> Path:
        """The folder of this sweep, for files that belong to no single run."""
        return Path(str(self.config.hydra.sweep.dir))

    def job(self, overrides: Sequence[str], folder: Path) -> Job:
        """The command of one point, logged to `folder`; a command line like the sweep's own, but of one run."""
        given = get_args_parser().parse_known_args(sys.argv[1:])[0]
        flags = {
            "--config-dir": given.config_dir,
            "--config-name": given.config_name,
            "--config-path": given.config_path,
        }
        words = [word for flag, value in flags.items() if value is not None for word in (flag, value)]
        of_hydra = [
            override
            for override in self.config.hydra.overrides.hydra
            if not override.lstrip("+~").startswith(_OF_THE_SWEEP)
        ]
        return Job.of([*words, *overrides, *of_hydra, "hydra.mode=RUN"], Path(os.path.abspath(folder / "run.log")))
