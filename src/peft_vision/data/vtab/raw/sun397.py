"""This module reads SUN397: 108,753 pictures of 397 kinds of scenes (Xiao et al., 2010).

SUN397/a/abbey/sun_aaalbzqrimafwbiv.jpg  SUN397/ClassName.txt
sun397_tfds_tr.txt  sun397_tfds_va.txt  sun397_tfds_te.txt    the benchmark's split: one line /a/abbey/sun_... per image
"""

import math
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import Release
from peft_vision.data.divide import TEST_SEED
from peft_vision.data.draws import draw
from peft_vision.data.folders import image_files
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import (
    home,
    is_inside,
    quoted,
    read_lines,
    refuse_repeated,
    require,
    require_listed,
    short,
)
from peft_vision.data.vtab.choice import first_thousand, tfds_order
from peft_vision.data.vtab.pictures import Derived, scaled

_LISTS = {"train": "sun397_tfds_tr.txt", "validation": "sun397_tfds_va.txt", "test": "sun397_tfds_te.txt"}
_LEFT_OUT = "c/church/outdoor/sun_bhenjvsvrtumjuri.jpg"  # damaged as published, and in no list
_PIXELS = 120_000
_TEST_SHARE = 5  # one in five, as in the benchmark


def read(root: Path) -> Release:
    """Return the splits of the lists if these lie next to the folder SUN397, else a release with a drawn test part."""
    parent = home(root, "sun397")
    folder = parent / "SUN397"
    require(
        parent,
        ["SUN397", "SUN397/ClassName.txt"],
        what="parts of SUN397",
        source="SUN397 is at vision.princeton.edu/projects/2010/SUN (SUN397.tar.gz, 37 GB)",
    )
    names = folder / "ClassName.txt"
    classes = tuple(sorted(line.strip() for line in read_lines(names, "names of classes") if line.strip()))
    if strange := [name for name in classes if not name.startswith("/") or not is_inside(name[1:])]:
        raise ConfigError(f"data.root: {names} names {quoted(strange[0])}, should be such as /a/abbey")
    refuse_repeated(classes, names)
    lists = {split: parent / name for split, name in _LISTS.items()}
    there = [file for file in lists.values() if file.is_file()]
    if not there:
        return _drawn(root, folder, classes, names)
    if len(there) < len(lists):
        missing = next(file for file in lists.values() if not file.is_file())
        raise ConfigError(
            f"data.root: {parent} holds {there[0].name}, but no {missing.name}\n"
            "all three are in tensorflow_datasets/image_classification of github.com/tensorflow/datasets"
        )
    train, val, test = (_listed(root, folder, classes, file, split) for split, file in lists.items())
    return first_thousand(train, val, test, classes=classes, files=[names, *there])


def _listed(root: Path, folder: Path, classes: tuple[str, ...], file: Path, split: str) -> Labelled:
    lines = [line.strip() for line in read_lines(file, "lines such as /a/abbey/sun_1.jpg") if line.strip()]
    if not lines:
        raise ConfigError(f"data.root: {file} is empty, should be lines such as /a/abbey/sun_1.jpg; fetch it again")
    refuse_repeated(lines, file)
    part = _labelled(root, folder, lines, classes, file)
    require_listed(folder, [line[1:] for line in lines], by=file.name, remedy="unpack SUN397.tar.gz again")
    return tfds_order(part, split, lines)


def _drawn(root: Path, folder: Path, classes: tuple[str, ...], names: Path) -> Release:
    paths = [f"/{path}" for path in image_files(folder, folder, key="data.root") if path != _LEFT_OUT]
    images = _labelled(root, folder, paths, classes, names)
    test, rest = draw(images.labels, len(images) // _TEST_SHARE, seed=TEST_SEED, least=0, leave=1)
    return Release(
        train=images.subset(rest),
        val=None,
        test=images.subset(test),
        classes=classes,
        files=(names,),
        remark=f"test part drawn by peft-vision, for want of {', '.join(_LISTS.values())}",
    )


def _labelled(root: Path, folder: Path, lines: Iterable[str], classes: tuple[str, ...], file: Path) -> Labelled:
    """Return the labelled images of `folder` that `lines` of `file` name as /a/abbey/sun_...; ConfigError for unknown
    classes."""
    places = {name: place for place, name in enumerate(classes)}
    lines = list(lines)
    if unknown := [line for line in lines if line.rpartition("/")[0] not in places]:
        raise ConfigError(
            f"data.root: {short(unknown[0])} is of none of the {len(classes)} classes of {folder / 'ClassName.txt'}, "
            f"which {file.name} should agree with"
        )
    paths = [(folder / line.removeprefix("/")).relative_to(root).as_posix() for line in lines]
    pictures = Derived(Files(root, paths), at_most_120k)
    return labelled(pictures, [places[line.rpartition("/")[0]] for line in lines])


def at_most_120k(image: Image.Image) -> Image.Image:
    """Return the image, scaled down to 120,000 pixels if it has more, as in the benchmark."""
    pixels = image.width * image.height
    return scaled(image, math.sqrt(_PIXELS / pixels)) if pixels > _PIXELS else image
