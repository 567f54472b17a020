"""This module reads the outcome of a submitted Slurm job from the outside."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.launch.job import Job


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
