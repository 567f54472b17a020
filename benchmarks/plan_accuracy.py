"""This benchmark compares task=plan with real sweeps: backbone passes, what the store saves and holds, and seconds.

    python benchmarks/plan_accuracy.py [--only digits] [--backbone vit_ti16_augreg] [--images 48] [--epochs 2]

The sweeps are some of a tiny ViT on digits, and a sample of VPT's and VQT's tables: two tasks of VTAB-1k as miniature
copies, JPEGs of about 300 x 300, with the real protocols of tuning and final runs on few images and epochs, one run at
a time. Planned figures are those that task=plan prints before anything has run. Recorded figures are `backbone_images`
of all results, and the files of the store; saved passes are how many more the same sweep makes with features.use=never,
which is run for this on digits. The seconds taken are how much longer the sweep's command takes than its repetition,
which finds all runs done. The exit code is 1 if a count or the store's MiB differ from the plan's by as much as their
last digit, or seconds by more than a fifth.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-m", "peft_vision.cli"]
DIGITS = ("backbone=vit_micro", "data=digits", "data.train_size=600", "trainer.batch_size=32")
TASKS = {"dtd": 47, "svhn": 10}
SAMPLES = {
    "digits, stored": ("-m", *DIGITS, "method=linear,vqt,head2toe", "trainer.epochs=10"),
    "digits, trained": ("-m", *DIGITS, "method=lora,vpt_deep", "trainer.epochs=3", "seed=0,1"),
    "digits, last layer": ("-m", *DIGITS, "method=lora", "method.layers=last-1", "trainer.epochs=8", "seed=0,1"),
    "digits, tuned": ("-m", "hydra/sweeper=tune", *DIGITS, "method=linear", "optimizer=grid", "trainer.epochs=60"),
    "VPT-deep, 10 prompts": ("experiment=vtab/vpt", "method=vpt_deep", "method.num_prompts=10", "optimizer.lr=0.25"),
    "full fine-tuning": ("experiment=vtab/vpt", "method=full", "optimizer.lr=0.00015"),
    "VQT, 1 query, selected": ("experiment=vtab/vqt", "method=vqt", "method.num_queries=1", "method.keep_fraction=0.7"),
}
STORED = 20  # times as many epochs for runs that read the store, since their epochs are short
FIFTH = 0.2


@dataclass(frozen=True)
class Told:
    """The figures of a plan: passes, and how many the store saves; MiB of the store; seconds."""

    passes: int
    saved: int
    mib: float
    seconds: float

    @classmethod
    def of(cls, text: str) -> "Told":
        cells = re.search(r"^in all +(.+)$", text, re.M)[1].split()
        _, trained, scored, saved = (int(cell.replace(",", "")) for cell in cells[:4])
        mib = float(re.search(r"([\d.]+) MiB more in the store", text)[1])
        return cls(trained + scored, saved, mib, 3600 * float(re.search(r"^time +([\d.e-]+) hours", text, re.M)[1]))


def write_copies(root: Path, images: int) -> None:
    generator = np.random.default_rng(0)
    for task, classes in TASKS.items():
        folder = root / "vtab-1k" / task
        for split, count in {"train800": images, "val200": images // 4, "test": images}.items():
            (folder / "images" / split).mkdir(parents=True)
            lines = [f"images/{split}/{place:06d}.jpg {place % classes}" for place in range(count)]
            for line in lines:
                pixels = generator.integers(0, 256, (300, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / line.split(" ")[0])
            (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def run(folder: Path, *words: str) -> tuple[str, float]:
    """Run a command in `folder`, and return what it printed and its seconds."""
    environment = {**os.environ, "PEFT_VISION_CACHE": str(folder / "store")}
    started = perf_counter()
    done = subprocess.run([*COMMAND, *words], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout, perf_counter() - started


def recorded(runs: Path) -> int:
    results = [json.loads(path.read_text()) for path in runs.rglob("result.json")]
    return sum(sum(result["backbone_images"].values()) for result in results)


def written_mib(store: Path) -> float:
    """Return the MiB of the rows in the store, without the header of each file."""
    total = 0
    for path in store.glob("*.safetensors"):
        with path.open("rb") as file:
            total += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    return total / 2**20


def command(name: str, options: argparse.Namespace) -> list[str]:
    words = [*SAMPLES[name], "tracker=none", "hydra.sweeper.report=null"]
    if name.startswith("digits"):
        return words
    stored = "experiment=vtab/vqt" in words
    words += [
        "data=vtab/dtd,vtab/svhn",
        "data.source=processed",
        "data.miniature=true",
        "optimizer.weight_decay=0",
        "hydra.sweeper.seeds=[42]",
    ]
    words += [f"backbone={options.backbone}", "backbone.pretrained=false", f"trainer.batch_size={options.batch_size}"]
    words += [f"trainer.epochs={options.epochs * (STORED if stored else 1)}"]
    return [*words, "optimizer.lr=0.1"] if stored else words


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_ti16_augreg")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--only", default="", help="samples whose name has this")
    options = parser.parse_args()
    print(f"{'planned / recorded':24} {'passes':>17} {'saved':>17} {'MiB stored':>15} {'seconds':>15}")
    faults = 0
    for name in SAMPLES:
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_copies(folder / "datasets", options.images)
            words = command(name, options)
            planned = Told.of(run(folder, "task=plan", *words)[0])
            taken = run(folder, *words)[1] - run(folder, *words)[1]
            passes, mib = recorded(folder / "runs"), written_mib(folder / "store")
            saved = "not run"
            if name.startswith("digits") and planned.saved:
                run(folder, *words, "features.use=never", "runs=never")
                saved = recorded(folder / "never") - passes
        wrong = planned.passes != passes or abs(planned.mib - mib) > 0.051 or saved not in ("not run", planned.saved)
        faults += wrong or abs(planned.seconds / taken - 1) > FIFTH
        print(
            f"{name:24} {planned.passes:8} {passes:8} {planned.saved:8} {saved:>8} {planned.mib:7.1f} {mib:7.1f} "
            f"{planned.seconds:7.1f} {taken:7.1f} {planned.seconds / taken:5.2f}",
            flush=True,
        )
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
