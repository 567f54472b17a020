"""Describes the images that a release of a task holds, before 800 and 200 of them are chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peft_vision.data.pictures import Labelled


@dataclass(frozen=True)
class Release:
    """`train`: what training images are chosen of. `val`: the same of validation images; None: they are chosen of
    `train` too. `test`: all of it is tested on. `files`: those that say what is what, for checksums. `remark`: what is
    not as the benchmark has it, such as a test part that was drawn; empty: nothing. `chosen`: `train` and `val` are the
    very 800 and 200 images of VTAB-1k, so that nothing is left to choose."""

    train: Labelled
    val: Labelled | None
    test: Labelled
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    remark: str
    chosen: bool = False


Reader = Callable[[Path], Release]
"""From the folder that holds data sets to the release of one task. ConfigError where files are missing or wrong; it
says what was expected and where to get it."""
