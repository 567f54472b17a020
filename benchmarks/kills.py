"""This benchmark kills a sweep at random moments, restarts the same command until it ends, and compares the results.

    python benchmarks/kills.py --kills 200

Each round is a sweep of four methods and three seeds on the embedded default, two runs at a time. A kill is SIGKILL to
the whole sweep, to its process alone, or to one of its runs. When a round's sweep has ended, every result must equal
that of an undisturbed sweep bit for bit: metrics, and the tensors of the adapter. Most kills come while runs are at
work: none comes before a sweep has had most of the time that it needs for its imports.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

SWEEP = ["-m", "experiment=demo", "method=linear,lora,vpt_shallow,bitfit", "seed=0,1,2", "trainer.epochs=4"]
SWEEP += [
    "trainer.save_seconds=0",
    "tracker=none",
    "hydra.sweeper.report=null",
    "data.train_size=300",
    "hydra/launcher=pool",
    "hydra.launcher.jobs=2",
]


def start(folder: Path) -> subprocess.Popen:
    """Start the sweep as the leader of a session, so that all its processes can be killed together."""
    return subprocess.Popen(
        [sys.executable, "-m", "peft_vision.cli", *SWEEP, f"runs={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def members(session: int) -> list[int]:
    """Return the processes of a session that train, without the sweep and the processes that serve it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            is_run = int(fields[3]) == session and b"forkserver" in (path.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if is_run:
            found.append(int(path.parent.name))
    return sorted(found)[1:]  # the first is the server that forks them


def kill(process: subprocess.Popen, kind: str) -> bool:
    """Kill the whole sweep, its process or one of its runs, and return whether there was something to kill."""
    if process.poll() is not None:
        return False
    if kind == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif kind == "sweep":
        process.kill()
    else:
        runs = members(process.pid)
        if not runs:
            return False
        try:
            os.kill(random.choice(runs), signal.SIGKILL)
        except ProcessLookupError:
            return False
    return True


def contents(folder: Path) -> dict[str, tuple]:
    """Return, for every finished run, the results that must not depend on how often it was killed."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text())
        metrics = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        tensors = load_file(path.parent / "adapter.safetensors")
        tuned = {name: (tensor.dtype.str, tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}
        found[path.parent.name] = (result["metrics"], metrics, tuned)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        calm = Path(scratch) / "calm"
        if start(calm).wait() != 0:
            sys.exit("the undisturbed sweep failed")
        took = time.monotonic() - began
        expected = contents(calm)
        print(f"undisturbed: {len(expected)} runs in {took:.0f} s", flush=True)
        kills = {"all": 0, "sweep": 0, "run": 0}
        rounds = resumed = unequal = 0
        again = time.monotonic()
        start(calm).wait()
        idle = time.monotonic() - again  # seconds of a sweep in which nothing is left to do
        while sum(kills.values()) < options.kills:
            folder = Path(scratch) / f"round-{rounds}"
            ended = False
            while not ended:
                process = start(folder)
                aims = [random.uniform(0.7 * idle, 0.95 * took) for _ in range(random.randint(8, 24))]
                begun = time.monotonic()
                for moment in sorted(aims):
                    try:
                        process.wait(max(0.0, moment - (time.monotonic() - begun)))
                    except subprocess.TimeoutExpired:
                        kind = random.choice((*kills, *["run"] * 9))  # the others end the sweep
                        if sum(kills.values()) < options.kills:
                            kills[kind] += kill(process, kind)
                ended = process.wait() == 0
            rounds += 1
            found = contents(folder)
            logs = "".join(path.read_text(errors="replace") for path in folder.glob("*/run.log"))
            resumed += logs.count("resumes   after epoch")
            twice = sum(path.read_text(errors="replace").count("\nsaved     ") > 1 for path in folder.glob("*/run.log"))
            if found != expected or twice:
                unequal += 1
                print(f"round {rounds}: {len(found)} runs, {twice} done twice, unequal", flush=True)
            print(f"{sum(kills.values())} kills {kills}, {rounds} sweeps ended, {resumed} resumes", flush=True)
        print(f"{unequal} of {rounds} sweeps differ from the undisturbed one")
        sys.exit(unequal > 0)


if __name__ == "__main__":
    main()
