"""The size of predictions.parquet, and how long it takes to write and to read, for made-up predictions of one class an
image.

    python benchmarks/predictions_size.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from peft_vision.data.arrays import Arrays
from peft_vision.data.pictures import Labelled
from peft_vision.objective.single_label import OneClass
from peft_vision.runs.predictions import predictions_checksum, read_predictions, write_predictions
from peft_vision.runs.run import PREDICTIONS

SETS = ((10, 10_000), (100, 10_000), (1000, 50_000))  # classes, images


def measure(classes: int, images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = 2 * torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 6
    criterion = OneClass(classes)
    columns = (*criterion.judge(logits, labels), *criterion.kept(logits))
    kept = {"test": criterion.predictions(columns, [f"class {number}" for number in range(classes)])}
    part = Labelled(Arrays(np.zeros((images, 1, 1, 3), np.uint8)), torch.arange(images), labels)
    with TemporaryDirectory() as folder:
        path, began = Path(folder) / PREDICTIONS, perf_counter()
        write_predictions(path, kept, {"test": part}, "")
        written = perf_counter()
        read_predictions(path.parent, predictions_checksum(path), {"test": images})
        read, size = perf_counter(), path.stat().st_size / 1e6
    print(f"{images:,} images, {classes:,} classes: {size:.1f} MB, ", end="")
    print(f"written in {written - began:.2f} s, read in {read - written:.2f} s")


if __name__ == "__main__":
    for pair in SETS:
        measure(*pair)
