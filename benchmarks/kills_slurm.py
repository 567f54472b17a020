"""This benchmark does the same as kills.py on Slurm; SLURM_CONF may name a one-node setup, such as that of
tests/sweep/launch/one_node.sh.

    python benchmarks/kills_slurm.py --rounds 1

A kill is one of: SIGKILL to a run; Slurm's warning to a run; a requeue of a run by Slurm; SIGKILL to the sweep, whose
jobs then go on; Ctrl-C, which cancels the jobs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kills import contents

SWEEP = ["-m", "experiment=demo", "method=linear,lora,vpt_deep,bitfit", "seed=0,1,2", "trainer.epochs=16"]
SWEEP += ["trainer.save_seconds=0.3", "data.train_size=400"]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
SLURM += ["hydra.launcher.poll_seconds=2"]
LOCAL = ["hydra/launcher=pool", "hydra.launcher.jobs=2"]
PAUSE_SECONDS = (2.0, 10.0)  # between two kills


def start(folder: Path, launcher: list[str]) -> subprocess.Popen:
    """Start the sweep with this launcher."""
    return subprocess.Popen(
        [sys.executable, "-m", "peft_vision.cli", *SWEEP, *launcher, f"runs={folder}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def process_of(job: str) -> int:
    """Return the id of the process that trains in this job; ProcessLookupError if there is none."""
    array, _, number = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={number}"} if number else {f"SLURM_JOB_ID={array}"}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
            variables = set((folder / "environ").read_text().split("\0"))
        except OSError:
            continue
        if "submitit.core._submit" in words and "srun" not in words[0] and wanted <= variables:
            return int(folder.name)
    raise ProcessLookupError(job)


def strike(kind: str, sweep: subprocess.Popen) -> bool:
    """Strike a running job or the sweep, and return whether there was something to strike."""
    listed = ["squeue", "--noheader", "--states=RUNNING", "--format=%i"]
    running = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    if kind in ("sweep", "Ctrl-C"):
        sweep.send_signal(signal.SIGKILL if kind == "sweep" else signal.SIGINT)
        return True
    if not running:
        return False
    job = random.choice(running)
    if kind == "run":
        try:
            os.kill(process_of(job), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True
    command = ["scancel", "--signal=USR2", job] if kind == "warning" else ["scontrol", "requeue", job]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        calm = Path(scratch) / "calm"
        if start(calm, LOCAL).wait() != 0:
            sys.exit("the undisturbed sweep failed")
        expected = contents(calm)
        struck = dict.fromkeys(("run", "warning", "requeue", "sweep", "Ctrl-C"), 0)
        unequal = 0
        for number in range(options.rounds):
            folder = Path(scratch) / f"round-{number}"
            began = time.monotonic()
            starts = 0
            ended = False
            while not ended:
                sweep = start(folder, SLURM)
                starts += 1
                while sweep.poll() is None:
                    try:
                        sweep.wait(random.uniform(*PAUSE_SECONDS))
                    except subprocess.TimeoutExpired:
                        (kind,) = random.choices(list(struck), weights=[4, 3, 3, 1, 1])
                        struck[kind] += strike(kind, sweep)
                ended = sweep.returncode == 0
            logs = "".join(path.read_text(errors="replace") for path in folder.glob("*/run.log"))
            equal = contents(folder) == expected
            unequal += not equal
            minutes = (time.monotonic() - began) / 60
            print(f"{len(expected)} runs {'equal' if equal else 'DIFFER'} after {struck}, {starts} starts", end=", ")
            print(f"{logs.count('resumes   after epoch')} resumes, {minutes:.1f} min", flush=True)
            subprocess.run([sys.executable, "-m", "peft_vision.cli", "task=report", f"runs={folder}"], check=True)
        sys.exit(unequal > 0)


if __name__ == "__main__":
    main()
