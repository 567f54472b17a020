"""This module describes the images in a release of a task before 800 and 200 of them are chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peft_vision.data.pictures import Labelled


@dataclass(frozen=True)
class Release:
    """The images of a task's data set.

    `train`: the images that training images are chosen from. `val`: the same for validation images; None: they are
    chosen from `train` too. `test`: all of it is used for testing. `files`: the files that define splits and labels,
    for checksums. `remark`: how it differs from the benchmark, such as a drawn test part; empty: not at all. `chosen`:
    `train` and `val` are exactly the 800 and 200 images of VTAB-1k.
    """

    train: Labelled
    val: Labelled | None
    test: Labelled
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    remark: str
    chosen: bool = False


Reader = Callable[[Path], Release]
"""A function from the folder that holds data sets to a task's release. Its ConfigError for missing or wrong files
says what was expected and where to get it."""
