"""This module asks Slurm for the states of jobs with squeue, since sacct reports nothing without accounting."""

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

from peft_vision.core.config import ConfigError

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
