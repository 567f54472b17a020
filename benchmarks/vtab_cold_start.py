"""This benchmark measures how long a fresh run of VTAB-1k waits for its images, and checks that each is decoded once.

    python benchmarks/vtab_cold_start.py [--repeats 5]

It makes a processed copy with KITTI's numbers of images, JPEGs of about 400 x 300, in a temporary folder: 800 + 200 of
them are decoded to 224 px, 711 test images are not read. It prints medians in seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from PIL import Image

COUNTS = {"train800": 800, "val200": 200, "test": 711}
EPOCHS = 3
CHILD = f"""
import json, sys
from time import perf_counter
started = perf_counter()
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft_vision.core.config import CONFIG_DIR
from peft_vision.core.config import build
from peft_vision.data.base import Data
from peft_vision.data.pictures import Files
from peft_vision.data.vtab.benchmark import Vtab
from peft_vision.core.preprocessing import Preprocessing
with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
    config = compose("config", ["data=vtab/kitti", "data.stage=tune", "data.root=" + sys.argv[1]])
data = build(OmegaConf.to_container(config.data), Data, "data")
reads, read = [], Files.read
Files.read = lambda pictures, index: reads.append(index) or read(pictures, index)
seconds = {{"import and configure": perf_counter() - started}}
started = perf_counter()
data.open()
seconds["open: lists and folders"] = perf_counter() - started
started = perf_counter()
size = Preprocessing(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop=0.9)
splits = data.load(size)
seconds["load: open, decode, checksums"] = perf_counter() - started
decoded = len(reads)
started = perf_counter()
for epoch in range({EPOCHS}):
    for part in (splits.train, splits.val):
        for batch in part.in_order(batch_size=64, workers=data.workers):
            pass
seconds["{EPOCHS} epochs of batches"] = perf_counter() - started
print(json.dumps({{"seconds": seconds, "decoded": decoded, "later": len(reads) - decoded}}))
"""


def write_copy(root: Path) -> float:
    """Write the processed copy, and return the mean size of its JPEGs in KiB."""
    generator, sizes = np.random.default_rng(0), []
    folder = root / "vtab-1k" / "kitti"
    for split, count in COUNTS.items():
        (folder / "images" / split).mkdir(parents=True)
        lines = [f"images/{split}/{place:06d}.jpg {place % 4}" for place in range(count)]
        for line in lines:
            width, height = generator.integers(350, 451), generator.integers(260, 341)
            coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
            noisy = np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
            file = folder / line.split(" ")[0]
            Image.fromarray(noisy).save(file, quality=90)
            sizes.append(file.stat().st_size / 2**10)
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return sum(sizes) / len(sizes)


def measured(root: Path) -> tuple[float, dict]:
    """Run a fresh process, and return its seconds in all and its own account."""
    started = perf_counter()
    command = [sys.executable, "-c", CHILD, str(root)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return perf_counter() - started, json.loads(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"JPEGs of {write_copy(Path(folder)):.0f} KiB on average")
        runs = [measured(Path(folder)) for _ in range(options.repeats)]
    for name in runs[0][1]["seconds"]:
        print(f"{name:32} {median(account['seconds'][name] for _, account in runs):6.2f} s")
    print(f"{'the process in all':32} {median(seconds for seconds, _ in runs):6.2f} s")
    for _, account in runs:
        if account["decoded"] != 1000 or account["later"]:
            raise RuntimeError(f"decoded {account['decoded']} images, and {account['later']} again later")
    print(f"1,000 images decoded once; none in {EPOCHS} epochs")


if __name__ == "__main__":
    main()
