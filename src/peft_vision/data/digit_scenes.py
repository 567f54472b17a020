"""This module draws scenes of handwritten digits: pictures of 64 x 32 pixels with one or two of scikit-learn's digits
(Alpaydin, 1998), each enlarged three or four times, at a random place in a half of its own.

masks    which digit each pixel belongs to, or the background: 11 classes
several  which digits a picture shows
numbers  how many digits it shows, and their sum

A scene is a function of its number (draws.py), so all machines draw the same ones. Digits of validation and of test
scenes are in no training scene.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from peft_vision.core.config import component
from peft_vision.core.output import write_csv
from peft_vision.data.arrays import Arrays
from peft_vision.data.base import Data
from peft_vision.data.digits import TEST_FRACTION, read_digits
from peft_vision.data.divide import test_part
from peft_vision.data.draws import below
from peft_vision.data.mask_files import MaskArrays
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.splits import LabelledSets

COUNTS = {"train": 1200, "val": 150, "test": 300}
_DIGITS = tuple(str(digit) for digit in range(10))
_HALVES = 2
_CELL = 32  # pixels of a half's side
_INK = 80  # of 255: a pixel of a digit from this on belongs to it
_GROUND, _NUMBER, _ORDER, _DIGIT, _SCALE, _TOP, _LEFT, _LEVEL = range(0, 64, 8)  # random streams; + half


@component
class DigitScenes(Data):
    """A data set of drawn scenes that needs no files of the user. `labels_are`: what is learned of a scene."""

    labels_are: Literal["masks", "several", "numbers"]

    def open(self) -> LabelledSets:
        """Return the scenes of each split."""
        parts = {
            split: _labelled(Scenes.drawn(digits, COUNTS[split], seed=place), self.labels_are)
            for place, (split, digits) in enumerate(_digits_of_splits().items())
        }
        classes = {"masks": ("background", *_DIGITS), "several": _DIGITS, "numbers": ("count", "sum")}
        remark = "drawn scenes, of other digits in each split"
        return LabelledSets(name="digit scenes", **parts, classes=classes[self.labels_are], remark=remark)


@dataclass(frozen=True)
class Scenes:
    """Pictures uint8 (n, 32, 64), masks uint8 (n, 32, 64), 0 for the background and 1 + digit, and how many of each
    digit they show, (n, 10)."""

    pictures: np.ndarray
    masks: np.ndarray
    counts: np.ndarray

    @classmethod
    def drawn(cls, digits: Labelled, count: int, *, seed: int) -> "Scenes":
        """Return `count` scenes of the given digits."""
        scenes = torch.arange(count)
        ground = below(64, scenes, seed=seed, stream=_GROUND).astype(np.uint8)
        numbers = 1 + below(_HALVES, scenes, seed=seed, stream=_NUMBER)
        first = below(_HALVES, scenes, seed=seed, stream=_ORDER)
        pictures = np.tile(ground[:, None, None], (1, _CELL, _HALVES * _CELL))
        masks, counts = np.zeros_like(pictures), np.zeros((count, 10), dtype=np.int64)
        for place in range(_HALVES):
            chosen = below(len(digits), scenes, seed=seed, stream=_DIGIT + place)
            scales = 3 + below(2, scenes, seed=seed, stream=_SCALE + place)
            tops, lefts = (
                below(_CELL + 1 - 8 * scales, scenes, seed=seed, stream=stream + place) for stream in (_TOP, _LEFT)
            )
            levels = 128 + below(128, scenes, seed=seed, stream=_LEVEL + place)
            for scene in np.flatnonzero(numbers > place):
                index, scale = digits.indices[chosen[scene]], scales[scene]
                digit = int(digits.labels[chosen[scene]])
                ink = np.kron(digits.pictures.values(int(index))[..., 0], np.ones((scale, scale), np.uint8))
                top, left = tops[scene], lefts[scene] + _CELL * ((first[scene] + place) % _HALVES)
                window = (scene, slice(top, top + len(ink)), slice(left, left + len(ink)))
                lit = (ink.astype(np.int64) * levels[scene] // 255).astype(np.uint8)
                pictures[window] = np.maximum(pictures[window], lit)
                masks[window] = np.where(ink >= _INK, 1 + digit, 0)
                counts[scene, digit] += 1
        return cls(pictures, masks, counts)

    @property
    def numbers(self) -> np.ndarray:
        """Return how many digits each scene shows, and their sum, float32 (n, 2)."""
        return np.stack([self.counts.sum(axis=1), self.counts @ np.arange(10)], axis=1).astype(np.float32)


def _digits_of_splits() -> dict[str, Labelled]:
    rest, test = test_part(read_digits(), TEST_FRACTION)
    train, val = test_part(rest, TEST_FRACTION)
    return {"train": train, "val": val, "test": test}


def _labelled(scenes: Scenes, labels_are: str) -> Labelled:
    pictures = Arrays(np.repeat(scenes.pictures[..., None], 3, axis=-1))
    if labels_are == "several":
        return labelled(pictures, (scenes.counts > 0).astype(np.uint8))
    if labels_are == "numbers":
        return labelled(pictures, scenes.numbers)
    return labelled(MaskArrays(pictures, scenes.masks, 1 + len(_DIGITS)), np.zeros(len(pictures)))


def write_scenes(folder: str | Path, count: int) -> None:
    """Write the first `count` training scenes as files: images/0000.png and masks/0000.png, whose values are 0 for the
    background and 1 + digit, and labels.csv with the path, the digits divided by semicolons, their number and sum."""
    scenes = Scenes.drawn(_digits_of_splits()["train"], count, seed=0)
    rows: list[list[object]] = [["image", "digits", "count", "sum"]]
    for kind, values in {"images": scenes.pictures, "masks": scenes.masks}.items():
        (Path(folder) / kind).mkdir(parents=True, exist_ok=True)
        for number, value in enumerate(values):
            Image.fromarray(value).save(Path(folder) / kind / f"{number:04d}.png")
    for number, (counts, numbers) in enumerate(zip(scenes.counts, scenes.numbers.tolist(), strict=True)):
        digits = ";".join(str(digit) for digit in np.flatnonzero(counts))
        rows.append([f"images/{number:04d}.png", digits, *map(int, numbers)])
    with (Path(folder) / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        write_csv(file, rows)
