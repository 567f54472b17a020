"""This benchmark compares the time of a grid of linear probes with the one pass of the backbone that it needs.

    python benchmarks/probe_grid.py [--model vit_base_patch16_224] [--images 1000] [--classes 100] [--epochs 100]

It runs the command itself, from the start of Python to the result, on generated pictures and random weights: 40
settings (8 learning rates x 5 weight decays) with an empty store, then again with a full one. The unit is the mean of
one plain pass of timm's own model over as many images before, and one after.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import timm
import torch
from PIL import Image

BATCH = 32


def pictures(folder: Path, *, images: int, classes: int, size: int) -> None:
    """Write train/<class>/ with all images, and test/<class>/ with one of each class."""
    generator = np.random.default_rng(0)
    for number in range(images + classes):
        split = "train" if number < images else "test"
        place = folder / split / f"{number % classes:04}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.bmp")


@torch.no_grad()
def one_pass(name: str, images: int) -> float:
    """Return the seconds that the forward pass of timm's model takes for this many images."""
    vit = timm.create_model(name, num_classes=0).eval()
    batch = torch.randn(BATCH, 3, *vit.patch_embed.img_size)
    vit(batch)
    started = perf_counter()
    for start in range(0, images, BATCH):
        vit(batch[: images - start])
    return perf_counter() - started


def command(folder: Path, *arguments: str) -> float:
    """Run a command in `folder` and return its seconds."""
    started = perf_counter()
    subprocess.run(
        [sys.executable, "-m", "peft_vision.cli", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    return perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    with torch.device("meta"):
        size = timm.create_model(options.model, num_classes=0).patch_embed.img_size[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder / "pictures", images=options.images, classes=options.classes, size=size)
        grid = (
            "backbone=timm",
            f"backbone.name={options.model}",
            "backbone.pretrained=false",
            "data=image_folder",
            "data.path=pictures",
            "data.val_fraction=0.2",
            "method=linear",
            "optimizer=grid",
            f"trainer.epochs={options.epochs}",
            "tracker=none",
            f"features.folder={folder}/store",
        )
        before = one_pass(options.model, options.images)
        first = command(folder, *grid)
        again = command(folder, *grid, "runs=again")
        unit = (before + one_pass(options.model, options.images)) / 2
    images = options.images + options.classes
    print(f"{options.model}, {options.images} images of {options.classes} classes, {torch.get_num_threads()} threads")
    print(f"one pass of the backbone     {unit:7.1f} s   1.00")
    print(
        f"40 probes, empty store       {first:7.1f} s   {first / unit:.2f}   ({images} images observed, test included)"
    )
    print(f"40 probes, full store        {again:7.1f} s   {again / unit:.2f}")


if __name__ == "__main__":
    main()
