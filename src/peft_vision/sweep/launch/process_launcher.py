"""This module is the base of Hydra launchers that give every run of a sweep a process of its own.

Runs that share a process leak state into each other: torch's threads, its default dtype, the caches of libraries.
"""

import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from peft_vision.core.config import build
from peft_vision.sweep.launch.job import Job

_OF_THE_SWEEP = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode", "hydra.sweep")


class ProcessLauncher(Launcher):
    """A launcher that turns runs into jobs; a subclass carries the jobs out."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    @abstractmethod
    def carry_out(self, jobs: Sequence[Job], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        """Yield the number of each job and its exit code as it ends; a job that a signal killed has the negative signal
        number.

        `starts(number)` is called when a job begins. If it is called before the job is started and returns False, there
        is nothing left to do, and the exit code is 0. Closing the iterator ends the jobs that still run, unless the
        launcher is told to leave them.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs for one of Hydra's own sweepers; the return value of each is its error, or None."""
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
        """Return the job of one point, whose log goes to `folder`: the sweep's own command line, reduced to one run."""
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


def checked(kind: type, options: Mapping[str, Any], where: str) -> Any:
    """Build the component `kind` from options as Hydra passes them; ConfigError lists all faults."""
    plain = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in options.items()
    }
    return build({"_target_": f"{kind.__module__}.{kind.__qualname__}", **plain}, kind, where)
