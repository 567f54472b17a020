"""This benchmark measures the overhead of a sweep for each run: for a run that is done, and for one that is started.

    python benchmarks/sweep_overhead.py [--skipped 200] [--tiny 12]

For a skipped run it is how much longer, for each run, a sweep that finds all its runs done takes than one of a single
such run: with one method and many seeds, and with all methods, each of which Hydra has to compose, and one seed. For a
tiny run it is how much longer, for each run, a sweep of them takes in the pool, one at a time, than one that finds them
done; and that less the seconds in which the run trained. No sweep makes the report at its end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median
from time import perf_counter

COMMAND = [
    sys.executable,
    "-m",
    "peft_vision.cli",
    "-m",
    "experiment=smoke",
    "optimizer=sgd",
    "hydra.sweeper.report=null",
]


def sweep(folder: str, *arguments: str) -> float:
    """Run a sweep in `folder` and return its seconds."""
    started = perf_counter()
    subprocess.run([*COMMAND, *arguments], cwd=folder, check=True, capture_output=True)
    return perf_counter() - started


def results_of(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("runs/*/result.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skipped", type=int, default=200)
    parser.add_argument("--tiny", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tiny = ("method=linear,lora", f"seed=range({options.tiny // 2})")
        fresh, done = sweep(folder, *tiny), sweep(folder, *tiny)
        results = [json.loads(path.read_text()) for path in results_of(folder)]
        each = (fresh - done) / len(results)
        trained, wall = (fmean(result[key] for result in results) for key in ("train_seconds", "wall_seconds"))
        print(f"{len(results)} tiny runs: {each:.2f} s each, of which {trained:.2f} s in training steps")
        print(f"beyond its training: {each - trained:.2f} s, of which {wall - trained:.2f} s by its own account, for")
        print("    data, backbone, scores and files")

        many = f"seed=range({options.skipped})"
        sweep(folder, "method=linear", many, "hydra.launcher.jobs=2")
        one = median(sweep(folder, "method=linear", "seed=0") for _ in range(3))
        all_ = median(sweep(folder, "method=linear", many) for _ in range(3))
        print(f"a sweep of 1 finished run {one:.2f} s, of {options.skipped} {all_:.2f} s")
        print(f"a skipped run: {1000 * (all_ - one) / (options.skipped - 1):.1f} ms")

        sweep(folder, "method=glob(*)", "hydra.launcher.jobs=2")
        methods = median(sweep(folder, "method=glob(*)") for _ in range(3))
        others = len({json.loads(path.read_text())["choices"]["method"] for path in results_of(folder)}) - 1
        print(f"of {others + 1} methods, one run each: {1000 * (methods - one) / others:.1f} ms")


if __name__ == "__main__":
    main()
