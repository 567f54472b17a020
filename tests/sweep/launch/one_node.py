"""A Slurm of one node for tests."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("one_node.sh")
NOT_HERE = 69


@dataclass(frozen=True)
class OneNode:
    """`variables` make a process find it."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", **self.variables}, capture_output=True, text=True)
        assert done.returncode == 0, done
        return done.stdout

    def at_work(self) -> list[str]:
        """The ids of jobs that wait or run."""
        return self.ask("squeue", "--noheader", "--array", "--format=%i").split()

    def processes(self, job_id: str) -> list[int]:
        """Those that train, of a job in an array."""
        array, _, number = job_id.partition("_")
        wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={number}"}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_text().split("\0")
                variables = set((folder / "environ").read_text().split("\0"))
            except OSError:  # it has just ended
                continue
            if "submitit.core._submit" in words and "srun" not in words[0] and wanted <= variables:
                found.append(int(folder.name))
        return found


@contextmanager
def one_node(folder: Path) -> Iterator[OneNode]:
    """Skips the test where there can be none."""
    started = subprocess.run(["bash", SCRIPT, "start", folder], capture_output=True, text=True, timeout=280)
    if started.returncode == NOT_HERE:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started
    try:
        yield OneNode(folder)
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder], check=True, timeout=60)


def wait_for(what: Callable[[], object], process: subprocess.Popen, seconds: float = 200) -> None:
    """Until it is true, while the process is at work."""
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
