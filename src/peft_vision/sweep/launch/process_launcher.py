"""This module is the base of Hydra launchers that give every run of a sweep a process of its own.

Runs that share a process leak state into each other: torch's threads, its default dtype, the caches of libraries.

A `Job` is one run of a sweep as a command of its own, wherever its process is started.
"""

import os
import signal
import sys
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from peft_vision.core.config import ConfigError, build
from peft_vision.core.output import complain

_SAID = "peft-vision: "
_READ_BYTES = 2**16  # read from the end of a log
_OF_SHELLS = 128  # a shell's exit code is this plus the number of the signal that killed its command


@dataclass(frozen=True)
class Job:
    """The command of one run. `arguments`: what follows `peft-vision` on the command line. `log`: the file that
    receives what the run prints; `begins`: the byte of the log at which this attempt's output begins."""

    arguments: tuple[str, ...]
    log: Path
    begins: int

    @classmethod
    def of(cls, arguments: Sequence[str], log: Path) -> "Job":
        """Return a job that appends to `log`, after the output of earlier attempts at the same run."""
        return cls(tuple(arguments), log, log.stat().st_size if log.exists() else 0)

    def __call__(self) -> int:
        """Run the command in this process, which can do nothing else afterwards, and return the exit code."""
        from peft_vision.cli import main  # here, because the process that starts others does not need it

        if not self.takes_output():
            return 1
        sys.argv = ["peft-vision", *self.arguments]
        try:
            main()
        except SystemExit as ending:
            return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:
            complain(traceback.format_exc())
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        return 0

    def has_begun(self) -> bool:
        """Return whether this attempt has written to the log or, with a log of its own, has opened it."""
        return self.log.exists() and (self.begins == 0 or self.log.stat().st_size > self.begins)

    def takes_output(self) -> bool:
        """Redirect all further output of this process, and of those it starts, to `log`. Where that cannot be written,
        say so on standard error and return False."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            complain(f"{_SAID}cannot write {self.log}: {error.strerror}")
            return False
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
        return True

    def say(self, message: str) -> None:
        """Append a final message to the log of a run that ended without one."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as file:
            file.write(f"\n{_SAID}{message}\n")

    def fault(self, exit_code: int) -> ConfigError | None:
        """Return the error of a run that ended with this exit code, in the words of its log; None for code 0."""
        if exit_code == 0:
            return None
        said, reason = self._last_words()
        signum = -exit_code if exit_code < 0 else exit_code - _OF_SHELLS
        if exit_code < 0 or (not reason and signum in set(signal.Signals)):
            name = signal.Signals(signum).name
            memory = ", as is done where memory runs out" if name == "SIGKILL" else ""
            return ConfigError(f"killed by {name}{memory}; {self.log}")
        kinds = {kind.exit_code: kind for kind in (*ConfigError.__subclasses__(), ConfigError)}
        return kinds.get(exit_code, ConfigError)(reason or said or f"ended with exit code {exit_code}")

    def _last_words(self) -> tuple[str, str]:
        """Return the log's last line, and the command's last message or else the exception of a traceback; "" for
        either that is missing."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self.begins, os.fstat(file.fileno()).st_size - _READ_BYTES))
                text = "\n" + file.read(_READ_BYTES).decode(errors="replace").strip()
        except OSError:
            return "", ""
        line = text.splitlines()[-1]
        _, said, message = text.rpartition(f"\n{_SAID}")
        if said:
            return line, message
        _, trace, after = text.rpartition("\nTraceback ")
        raised = [line for line in after.splitlines()[1:] if line and not line[0].isspace()] if trace else []
        return line, raised[0] if raised else ""


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
        of_hydra = [
            override
            for override in self.config.hydra.overrides.hydra
            if not override.lstrip("+~").startswith(_OF_THE_SWEEP)
        ]
        return Job.of(
            [*config_flags(), *overrides, *of_hydra, "hydra.mode=RUN"], Path(os.path.abspath(folder / "run.log"))
        )


def config_flags() -> list[str]:
    """Return the flags of this process's command line that say where Hydra finds configs."""
    given = vars(get_args_parser().parse_known_args(sys.argv[1:])[0])
    flags = {f"--config-{name}": given[f"config_{name}"] for name in ("dir", "name", "path")}
    return [word for flag, value in flags.items() if value is not None for word in (flag, value)]


def checked(kind: type, options: Mapping[str, Any], where: str) -> Any:
    """Build the component `kind` from options as Hydra passes them; ConfigError lists all faults."""
    plain = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in options.items()
    }
    return build({"_target_": f"{kind.__module__}.{kind.__qualname__}", **plain}, kind, where)
