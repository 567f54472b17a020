"""Handwritten digits as folders of PNGs: five classes to train and test on, and the test digits shifted.

digits/train/0/*.png   digits/test/0/*.png   inverted/0/*.png   turned/0/*.png
"""

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from peft_vision.core.composition import option
from peft_vision.core.config import build
from peft_vision.data.base import Data
from peft_vision.data.pictures import Labelled

CLASSES = 5
TRAIN, TEST, SHIFTED = 12, 8, 6  # images of each class
DATA = (
    "experiment=smoke",
    "data=image_folder",
    "data.path=digits",
    "data.train_size=null",
    "data.val_fraction=0.25",
    "data.workers=0",
    "backbone.architecture.embed_dim=32",
)


def write_digits(root: Path) -> Path:
    """Fills `root`."""
    sets = build(option("data", "digits"), Data, "data").open()
    _write(root / "digits" / "train", sets.train, TRAIN, lambda digit: digit)
    _write(root / "digits" / "test", sets.test, TEST, lambda digit: digit)
    _write(root / "inverted", sets.test, SHIFTED, ImageOps.invert)
    _write(root / "turned", sets.test, SHIFTED - 1, lambda digit: digit.rotate(90))
    return root


def _write(folder: Path, part: Labelled, count: int, shift: Callable[[Image.Image], Image.Image]) -> None:
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
        for index in part.indices[part.labels == label][:count].tolist():
            shift(part.pictures.read(index)).save(folder / str(label) / f"{index}.png")
