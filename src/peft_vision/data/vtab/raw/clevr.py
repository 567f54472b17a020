"""This module reads CLEVR: 70,000 and 15,000 rendered scenes of 3 to 10 objects, with descriptions of the objects
(Johnson et al., 2017, arXiv:1612.06890).

CLEVR_v1.0/images/train/CLEVR_train_000000.png  CLEVR_v1.0/scenes/CLEVR_train_scenes.json
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular
from peft_vision.data.benchmark import Reader, Release
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import home, is_inside, quoted, reading, refuse_repeated, require, require_listed
from peft_vision.data.vtab.choice import first_thousand, percent, tfds_order
from peft_vision.data.vtab.labels import CLASSES, clevr_count, clevr_distance

_FOLDER = "CLEVR_v1.0"
_REMEDY = "unpack it again"
_FAR = 1e6  # no object is this far away
_TRAIN = 90  # percent; the last tenth of train is VTAB's validation part
_LABELS: Mapping[str, Callable[[list[float]], int]] = {
    "clevr_count": lambda depths: clevr_count(len(depths)),
    "clevr_distance": clevr_distance,
}


def read(task: str, root: Path) -> Release:
    """Return the release; its test part is the official validation scenes, because the test scenes were published
    without their objects."""
    folder = home(root, "clevr")
    scenes = {split: f"{_FOLDER}/scenes/CLEVR_{split}_scenes.json" for split in ("train", "val")}
    require(
        folder,
        [*(f"{_FOLDER}/images/{split}" for split in scenes), *scenes.values()],
        what="parts of CLEVR",
        source="CLEVR is at cs.stanford.edu/people/jcjohns/clevr (CLEVR_v1.0.zip, 19 GB)",
    )
    train, test = (_split(root, folder / _FOLDER / "images" / split, folder / scenes[split], task) for split in scenes)
    train = tfds_order(train, "train", [Path(path).name for path in train.pictures.paths])
    return first_thousand(
        percent(train, 0, _TRAIN),
        percent(train, _TRAIN, 100),
        test,
        classes=CLASSES[task],
        files=[folder / file for file in scenes.values()],
    )


def _split(root: Path, images: Path, file: Path, task: str) -> Labelled:
    depths = _depths(file)
    require_listed(images, sorted(depths), by=file.name, remedy=_REMEDY)
    folder = images.relative_to(root).as_posix()
    pictures = Files(root, [f"{folder}/{name}" for name in depths])
    labels = [_LABELS[task](scene_depths) for scene_depths in depths.values()]
    if not labels:
        raise ConfigError(f"data.root: no scene of {file} has an object; unpack it again")
    if not 0 <= min(labels) <= max(labels) < len(CLASSES[task]):
        raise ConfigError(
            f"data.root: {file} has scenes of labels {min(labels)} to {max(labels)}, beyond VTAB's classes"
        )
    return labelled(pictures, labels)


def _depths(file: Path) -> dict[str, list[float]]:
    """Return the distance of each object from the camera, by the name of the image."""
    with reading(file, "scenes with image_filename and objects, each with pixel_coords", remedy=_REMEDY):
        with open_regular(file) as binary, TextIOWrapper(binary, encoding="utf-8") as text:
            scenes = json.load(text, object_hook=_needed)["scenes"]
        if not isinstance(scenes, list) or not scenes:
            raise ValueError("no scene")
        for name, depths in scenes:
            if not isinstance(name, str) or not is_inside(name) or "/" in name:
                raise ValueError(f"image_filename {quoted(name)}")
            if not isinstance(depths, list) or not all(type(depth) in (int, float) for depth in depths):
                raise ValueError(f"objects of {name} without pixel_coords")
            if not all(abs(depth) < _FAR for depth in depths):
                raise ValueError(f"pixel_coords of {name} that are no distance")
    refuse_repeated((name for name, _ in scenes), file)
    return {name: depths for name, depths in scenes if depths}


def _needed(value: dict[str, Any]) -> Any:
    """Keep the depth of an object, and the name and objects of a scene, because the whole file would take gigabytes."""
    if "pixel_coords" in value:
        return value["pixel_coords"][2]
    if "image_filename" in value:
        return value["image_filename"], value["objects"]
    return value if "scenes" in value else None


READERS: Mapping[str, Reader] = {task: partial(read, task) for task in _LABELS}
