"""This benchmark measures how long a person waits for the report of many finished runs.

    python benchmarks/report_speed.py [--runs 1000]

It makes up runs of ten methods at four settings, with five seeds, on as many data sets as it takes, with files as large
as real ones. It prints the wall-clock seconds and the processor seconds of `peft-vision task=report`, start of Python
included.
"""

import argparse
import itertools
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import yaml

METHODS = ("linear", "full", "lora", "vpt_deep", "vpt_shallow", "ssf", "bitfit", "vqt", "adaptformer", "convpass")
RATES, DECAYS = (1e-3, 3e-3), (0.0, 1e-2)
SEEDS = 5
EPOCHS = 100


def design() -> Iterator[tuple[str, str, float, float, int]]:
    """Yield data set, method, rate, decay and seed of each run, without end."""
    for data in itertools.count():
        for method, lr, decay, seed in itertools.product(METHODS, RATES, DECAYS, range(SEEDS)):
            yield f"data_{data}", method, lr, decay, seed


def write_run(runs: Path, config: dict, data: str, method: str, lr: float, decay: float, seed: int) -> None:
    draw = random.Random(f"{data} {method} {lr} {decay} {seed}")
    folder = runs / f"{method}-vit_b16_in21k-{data}-s{seed}-{lr:g}{decay:g}"
    folder.mkdir(parents=True)
    test = 0.7 + METHODS.index(method) / 100 + draw.gauss(0, 0.01)
    scores = {
        "accuracy": test,
        "accuracy_top5": 0.99,
        "accuracy_per_class": test,
        "calibration_error": 0.03,
        "loss": 0.6,
    }
    optimizer = {**config["optimizer"], "lr": lr, "weight_decay": decay}
    result = {
        "name": folder.name,
        "choices": {"method": method, "backbone": "vit_b16_in21k", "data": data, "task": "train"},
        "seed": seed,
        "data": {"source": f"{data}: 800 train + 200 val + 5000 test images", "images": {"train": 800, "test": 5000}},
        "backbone": {"name": "vit_base_patch16_224.orig_in21k"},
        "parameters": {"method": 2 ** (10 + METHODS.index(method)), "head": 76_900, "backbone": 85_798_656},
        "metrics": {f"{split}/{name}": value for split in ("val", "test") for name, value in scores.items()},
        "test_reads": 1,
        "peak_mib": 3000 + 100 * draw.random(),
        "train_seconds": 200 + 100 * draw.random(),
        "environment": {"peft-vision": "0.1.0", "git_commit": None},
        "config": {**config, "seed": seed, "runs": str(runs), "optimizer": optimizer},
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(1, EPOCHS + 1):
            accuracy = test - 0.4 * math.exp(-epoch / 10)
            row = {"epoch": epoch, "train/loss": 2 * math.exp(-epoch / 20) + 0.01, "lr": lr, "val/accuracy": accuracy}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    command = [sys.executable, "-m", "peft_vision.cli"]
    shown = ["backbone=vit_micro", "data=digits", "method=lora", "tracker=none", "--cfg", "job", "--resolve"]
    with tempfile.TemporaryDirectory() as folder:
        text = subprocess.run([*command, *shown], cwd=folder, check=True, capture_output=True, text=True).stdout
        config = yaml.safe_load(text)
        for run in itertools.islice(design(), options.runs):
            write_run(Path(folder) / "runs", config, *run)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
        subprocess.run([*command, "task=report"], cwd=folder, check=True, capture_output=True)
        seconds, after = perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        out = Path(folder, "runs", "report")
        size = (out / "report.html").stat().st_size / 2**20
        pictures = len(list(out.glob("*.svg")))
        print(
            f"{options.runs:,} runs, {pictures} pictures, a page of {size:.1f} MiB: {seconds:.1f} s ({busy:.1f} s busy)"
        )


if __name__ == "__main__":
    main()
