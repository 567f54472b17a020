"""This module asks Slurm about jobs: their states with squeue, since sacct reports nothing without accounting; the time
at which a job will end, which not every Slurm tells it; and the outcome of a submitted job.
"""

import os
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.sweep.launch.process_launcher import Job

_OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
_FORGOTTEN = "forgotten by Slurm"
_UNKNOWN = "unknown, as Slurm does not answer"
_SILENT_SECONDS = 3600.0  # without an answer until the sweep gives up: Slurm's controller restarts now and then


@dataclass(frozen=True)
class JobState:
    """The state of a Slurm job. `state`: Slurm's word, or _FORGOTTEN or _UNKNOWN; `reason`: why the job does not
    run."""

    state: str
    reason: str

    @property
    def is_over(self) -> bool:
        """True if the job seems to be over; Slurm may still queue it again."""
        return self.state in (*_OVER, _FORGOTTEN)

    @property
    def is_held(self) -> bool:
        """True if the job waits for a person to release it."""
        return "held" in self.reason.lower()


class Queue:
    """A reader of Slurm's queue that puts up with a controller that is silent for a while."""

    def __init__(self) -> None:
        self._answered = monotonic()

    def look(self, jobs: Sequence[str]) -> dict[str, JobState]:
        """Return the standing of each job by its id, which is `<array>_<number>` in an array. ConfigError if Slurm has
        not answered for too long."""
        arrays = sorted({job.partition("_")[0] for job in jobs})
        answer = subprocess.run(
            ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(arrays)}", "--format=%i|%T|%r"],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode and "Invalid job id specified" not in answer.stderr:
            if monotonic() - self._answered > _SILENT_SECONDS:
                raise ConfigError(f"hydra/launcher: Slurm does not answer any more: {answer.stderr.strip()}")
            return dict.fromkeys(jobs, JobState(_UNKNOWN, ""))
        self._answered = monotonic()
        rows = (line.split("|", 2) for line in answer.stdout.splitlines())
        known = {job: JobState(state, reason) for job, state, reason in rows}
        return dict.fromkeys(jobs, JobState(_FORGOTTEN, "")) | {job: known[job] for job in jobs if job in known}


def cancel(jobs: Iterable[str]) -> None:
    """Cancel the jobs, and ignore those that are over already."""
    if listed := list(jobs):
        subprocess.run(["scancel", "--quiet", *listed], capture_output=True, check=False)


def largest_array() -> int:
    """Return the largest number of jobs in one array. ConfigError if Slurm does not answer."""
    answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", answer.stdout)
    if found is None:
        raise ConfigError(f"hydra/launcher: Slurm does not answer: {answer.stderr.strip()}")
    return max(1, int(found[1]) - 1)


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted to Slurm. `job_id`: the id in squeue; `folder`: the folder of submitit's files, which
    are removed once the run has ended."""

    job_id: str
    folder: Path
    job: Job

    def exit_code(self) -> int | None:
        """Return the run's exit code once the run has ended and reported it, else None."""
        from submitit.core.utils import pickle_load

        file = self._paths.result_pickle
        os.scandir(file.parent).close()  # makes a network file system look again for new files
        if not file.is_file():
            return None
        outcome, result = pickle_load(file)
        if outcome == "error":
            self.job.say(str(result).strip().splitlines()[-1])
        for path in self.folder.glob(f"{self.job_id}_*"):
            path.unlink(missing_ok=True)
        return result if outcome == "success" else 1

    def lost(self, state: str) -> int:
        """Note in the run's log that the job ended in Slurm's `state` without a result, and return exit code 1."""
        file = self._paths.stderr
        lines = file.read_text(errors="replace").split("\n") if file.is_file() else []
        why = [line for line in lines if "error" in line.lower()][-1:]  # such as srun's and slurmstepd's
        self.job.say("; ".join([f"Slurm's job {self.job_id} ended as {state}", *why, str(file)]))
        return 1

    @property
    def _paths(self) -> Any:
        from submitit.core.utils import JobPaths  # an extra: only a sweep on Slurm needs it

        return JobPaths(self.folder, job_id=self.job_id)


_ENDS = "PEFT_VISION_JOB_ENDS"  # seconds since 1970
_MARGIN_SECONDS = 15.0  # to queue a run again that is still in the epoch in which it was warned


def noted(minutes: int) -> str:
    """Return the shell command that a job begins with, which exports the time of its end; `minutes`: its time limit."""
    return f"export {_ENDS}=$(($(date +%s) + {60 * minutes}))"


@contextmanager
def reminded(signum: int) -> Iterator[None]:
    """Send this process the signal shortly before the end of its job, unless the block has ended by then."""
    reminder = threading.Timer(float(os.environ[_ENDS]) - time() - _MARGIN_SECONDS, os.kill, (os.getpid(), signum))
    reminder.daemon = True
    reminder.start()
    try:
        yield
    finally:
        reminder.cancel()
