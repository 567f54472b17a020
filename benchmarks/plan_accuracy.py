"""How near task=plan comes to what a sample of VPT's and VQT's tables takes, on ViT-B/16 with random weights.

    python benchmarks/plan_accuracy.py [--backbone vit_b16_in21k] [--images 48] [--epochs 2]

Two tasks of VTAB-1k as miniature copies of JPEGs of about 300 x 300: few images and epochs of the real protocols,
tuning and final runs, one at a time. Planned: what task=plan says before anything ran. Taken: how much longer the
sweep's command takes than the same again, which finds all done.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-m", "peft_vision.cli"]
TASKS = {"dtd": 47, "svhn": 10}
SAMPLES = {
    "VPT-deep, 10 prompts": ("experiment=vtab/vpt", "method=vpt_deep", "method.num_prompts=10", "optimizer.lr=0.25"),
    "VPT-deep, 100 prompts": ("experiment=vtab/vpt", "method=vpt_deep", "method.num_prompts=100", "optimizer.lr=0.25"),
    "VPT-shallow, 50 prompts": (
        "experiment=vtab/vpt",
        "method=vpt_shallow",
        "method.num_prompts=50",
        "optimizer.lr=0.25",
    ),
    "full fine-tuning": ("experiment=vtab/vpt", "method=full", "optimizer.lr=0.00015"),
    "VQT, 1 query, selected": ("experiment=vtab/vqt", "method=vqt", "method.num_queries=1", "method.keep_fraction=0.7"),
    "VQT, 10 queries": ("experiment=vtab/vqt", "method=vqt", "method.num_queries=10", "method.keep_fraction=null"),
}
STORED = 20  # times as many epochs of what reads the store, which are short


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
    """What it printed, and seconds."""
    started = perf_counter()
    said = subprocess.run([*COMMAND, *words], cwd=folder, check=True, capture_output=True, text=True).stdout
    return said, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_b16_in21k")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--only", default="", help="samples whose name has this")
    options = parser.parse_args()
    print(f"{'':26} planned, s   taken, s   planned / taken")
    for name, words in SAMPLES.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_copies(folder / "datasets", options.images)
            epochs = options.epochs * (STORED if "vqt" in words[0] else 1)
            sweep = [
                *words,
                *("data=vtab/dtd,vtab/svhn", "data.miniature=true", "optimizer.weight_decay=0", "tracker=none"),
                *(f"backbone={options.backbone}", "backbone.pretrained=false", f"trainer.epochs={epochs}"),
                *(
                    f"trainer.batch_size={options.batch_size}",
                    "hydra.sweeper.seeds=[42]",
                    f"features.folder={place}/store",
                ),
                *("optimizer.lr=0.1",) * ("vqt" in words[0]),
                "hydra.sweeper.report=null",
            ]
            told, _ = run(folder, "task=plan", *sweep)
            planned = 3600 * float(re.search(r"^time +([\d.e-]+) hours", told, re.M)[1])
            taken = run(folder, *sweep)[1] - run(folder, *sweep)[1]
            print(f"{name:26} {planned:10.1f} {taken:10.1f} {planned / taken:17.2f}", flush=True)


if __name__ == "__main__":
    main()
