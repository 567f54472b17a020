"""This benchmark measures how long a person waits for `peft-vision --help`, for a shell's completion at a key, and for
the demo's first epoch.

    python benchmarks/startup.py [--repeats 5] [--no-demo]

It prints medians in seconds, and each as a multiple of the time to import torch and timm alone, measured in turns.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

COMMAND = [sys.executable, "-m", "peft_vision"]
KEYS = {"a key: options": "method=v", "a key: keys": "optimizer."}


def seconds(command: list[str], folder: str) -> float:
    """Run `command` and return its seconds."""
    started = perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return perf_counter() - started


def seconds_to_first_epoch(folder: str) -> tuple[float, float]:
    """Return the seconds until the demo has written its first epoch's metrics, and those until it ends. The former are
    an upper bound of those until its first training step."""
    started = perf_counter()
    process = subprocess.Popen([*COMMAND, "experiment=demo"], cwd=folder, stdout=subprocess.DEVNULL)
    while not any(path.stat().st_size for path in Path(folder).glob("runs/*/metrics.jsonl")):
        if process.poll() is not None:
            raise RuntimeError(f"the demo ended with {process.returncode} before its first epoch")
    first = perf_counter() - started
    if process.wait():
        raise RuntimeError(f"the demo ended with {process.returncode}")
    return first, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--demo", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    names = ["import torch, timm", "--help", *KEYS, *(["demo: first epoch", "demo: all"] if options.demo else [])]
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            times["import torch, timm"].append(seconds([sys.executable, "-c", "import torch, timm"], folder))
            times["--help"].append(seconds([*COMMAND, "--help"], folder))
            for name, word in KEYS.items():
                times[name].append(seconds([*COMMAND, "complete", "words", "data=cifar10", word], folder))
            if options.demo:
                first, whole = seconds_to_first_epoch(folder)
                times["demo: first epoch"].append(first)
                times["demo: all"].append(whole)
    unit = median(times["import torch, timm"])
    for name, taken in times.items():
        print(f"{name:20} {median(taken):6.2f} s  {median(taken) / unit:6.2f} of the import")


if __name__ == "__main__":
    main()
