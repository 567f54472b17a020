"""Counts the source files that one image and one point of a sweep pass through, by watching a tiny training run.

python scripts/walks.py                 or, after the other figures, python scripts/house.py --walks

The path of an image: every file of ours in which a function is called or returns, from the moment its picture is opened
for the first training step until its logits are there. The path of a point: the same from the sweep's overrides until
the point's result is read, in the process of the sweep; the run itself has a process of its own.
"""

import io
import os
import sys
import tempfile
import threading
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType

import numpy as np
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import peft_vision
from peft_vision.cli import main as command

SOURCE = f"{Path(peft_vision.__file__).parent}{os.sep}"
SMOKE = ("experiment=smoke", "method=lora", "trainer.epochs=1")
IMAGES = ("data=image_folder", "data.path=pictures", "data.train_size=null")
READ_AGAIN = ("data.cache=false", "data.workers=0", "data.device_memory_gib=0")


class Walk:
    """The files of ours that run between two places, each the name of a file and a function. Whenever `begin` is called
    the walk starts anew; the first return of `end` after a call of `through` is the last event."""

    def __init__(self, begin: tuple[str, str], end: tuple[str, str], *, through: tuple[str, str]) -> None:
        self.begin, self.end, self.through = begin, end, through
        self.files: dict[str, None] = {}
        self.walking = self.passed = self.ended = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if self.ended or event not in ("call", "return") or not code.co_filename.startswith(SOURCE):
            return
        place = (code.co_filename.removeprefix(SOURCE), code.co_qualname)
        if event == "call" and place == self.begin:
            self.files, self.walking, self.passed = {}, True, False
        if self.walking:
            self.files[place[0]] = None
            self.passed |= place == self.through
            self.ended = event == "return" and place == self.end and self.passed


def walked(walk: Walk, *arguments: str) -> list[str]:
    """Return the files of a walk through a command."""
    GlobalHydra.instance().clear()
    sys.argv = ["peft-vision", *arguments]
    threading.setprofile(walk)
    sys.setprofile(walk)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            command()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if not walk.ended:
        raise RuntimeError(f"{walk.begin} and {walk.end} did not follow each other")
    return list(walk.files)


def write_pictures(folder: Path) -> None:
    """Write a few pictures of two classes."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / name / f"{number}.png")


def walks() -> dict[str, list[str]]:
    """Return the files of both paths, in order."""
    image = Walk(
        ("data/sequences.py", "Pictures.shaped"),
        ("models/model.py", "Model.forward"),
        through=("training/step.py", "Update.__call__"),
    )
    point = Walk(
        ("sweep/points.py", "PointSweeper.sweep"),
        ("sweep/point.py", "Point.ended"),
        through=("sweep/launch/pool.py", "PoolLauncher.carry_out"),
    )
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_pictures(Path("pictures"))
        return {
            "one image, from its bytes to its logits": walked(
                image, *SMOKE, *IMAGES, *READ_AGAIN, "trainer.batch_size=1"
            ),
            "one point of a sweep, from the overrides to its result": walked(point, "-m", *SMOKE, "seed=1"),
        }


def print_walks() -> None:
    for title, files in walks().items():
        print(f"\n{title}: {len(files)} files\n")
        for number, file in enumerate(files, 1):
            print(f"{number:3} {file}")


if __name__ == "__main__":
    print_walks()
