"""This module reads KITTI's object detection images, labelled by the distance of the nearest vehicle (Geiger et al.,
2012).

training/image_2/000000.png  training/label_2/000000.txt    an object a line: Truck ... height width length x y z ry
mapping/train_mapping.txt    a video and frame in each line: 2011_09_26 2011_09_26_drive_0005_sync 0000000109
mapping/train_rand.txt       the line of the mapping for each image, counted from 1, on one line with commas
"""

from functools import partial
from pathlib import Path

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import Release
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import home, quoted, read_lines, reading, refuse_repeated, require
from peft_vision.data.vtab.choice import first_thousand, tfds_order
from peft_vision.data.vtab.labels import CLASSES, KITTI_TYPES, kitti_distance

_SEED = 123  # the seed with which TensorFlow Datasets draws the videos
_PARTS = ("train", "validation", "test")
_PERCENT = 10  # of the videos for validation, and as many for testing
_PARTS_OF_FRAME = 3
_FIELDS = 15  # in each line of a label file
_Z = 13
_FAR = 1e6  # metres
_REMEDY = "unpack it again"


def read(root: Path) -> Release:
    """Return splits by video, as in TensorFlow Datasets, because neighbouring frames look alike."""
    folder = home(root, "kitti", "KITTI")
    kit = home(folder, "devkit_object", "devkit")
    site = "www.cvlibs.net/datasets/kitti/eval_object.php"
    require(
        folder,
        ["training/image_2", "training/label_2"],
        what="parts of KITTI",
        source=f"KITTI is at {site} (data_object_image_2.zip, 12 GB; data_object_label_2.zip)",
    )
    mapping, order = "mapping/train_mapping.txt", "mapping/train_rand.txt"
    require(
        kit,
        [mapping, order],
        what="parts of KITTI's development kit",
        source=f"KITTI's development kit is at {site} (devkit_object.zip, 1 MB)",
    )
    parts = {
        split: _labelled(root, folder / "training", names)
        for split, names in _by_video(kit / mapping, kit / order, folder / "training").items()
    }
    train, val = (
        tfds_order(parts[split], split, [Path(path).name for path in parts[split].pictures.paths])
        for split in ("train", "validation")
    )
    return first_thousand(train, val, parts["test"], classes=CLASSES["kitti"], files=[kit / mapping, kit / order])


def _by_video(mapping: Path, order: Path, training: Path) -> dict[str, list[str]]:
    """Return the names of the images of each split, without their endings."""
    lines, expected = partial(read_lines, encoding="ascii", remedy=_REMEDY), "lines of a date, a video and a frame"
    frames = lines(mapping, expected)
    with reading(mapping, expected, remedy=_REMEDY):
        videos = [_video(frame) for frame in frames if frame.strip()]
    expected = "whole numbers with commas"
    text = " ".join(lines(order, expected))
    with reading(order, expected, remedy=_REMEDY):
        numbers = [int(number) for number in text.split(",")]
    refuse_repeated(numbers, order)
    if not 1 <= min(numbers) <= max(numbers) <= len(videos):
        raise ConfigError(
            f"data.root: {order} holds {min(numbers)} to {max(numbers)}, should be lines of {mapping}, 1 to "
            f"{len(videos)}\n{_REMEDY}, both"
        )
    video_of = [videos[number - 1] for number in numbers]
    names = [f"{image:06d}" for image in range(len(video_of))]
    for folder, ending in (("image_2", "png"), ("label_2", "txt")):
        there = {path.stem for path in (training / folder).glob(f"*.{ending}")}
        if there != set(names):
            raise ConfigError(
                f"data.root: {training / folder} holds {len(there)} .{ending} files, should hold the {len(names)} "
                f"that {order} speaks of\nunpack it again"
            )
    drawn = sorted(set(video_of))
    if len(drawn) < len(_PARTS):
        raise ConfigError(f"data.root: {mapping} names {len(drawn)} videos, too few to train, validate and test on")
    draws = np.random.RandomState(_SEED)
    count = max(1, _PERCENT * len(drawn) // 100)
    test = set(draws.choice(drawn, count, replace=False).tolist())
    val = set(draws.choice([video for video in drawn if video not in test], count, replace=False).tolist())
    splits: dict[str, list[str]] = {split: [] for split in _PARTS}
    for name, video in zip(names, video_of, strict=True):
        splits["test" if video in test else "validation" if video in val else "train"].append(name)
    return splits


def _video(frame: str) -> str:
    """Return the video that a line of the mapping names. ValueError for any other line."""
    if len(fields := frame.split()) != _PARTS_OF_FRAME or not frame.strip().isprintable():
        raise ValueError(f"a line {quoted(frame)}")
    return fields[1]


def _labelled(root: Path, training: Path, names: list[str]) -> Labelled:
    folder = (training / "image_2").relative_to(root).as_posix()
    return labelled(
        Files(root, [f"{folder}/{name}.png" for name in names]),
        [_label(training / "label_2" / f"{name}.txt") for name in names],
    )


def _is_distance(word: str) -> bool:
    try:
        return abs(float(word)) < _FAR  # false for NaN
    except ValueError:
        return False


def _label(file: Path) -> int:
    types, depths = [], []
    lines = read_lines(file, "lines of objects", encoding="ascii")
    if not lines:
        raise ConfigError(f"data.root: {file} is empty, should be lines of objects; unpack it again")
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields[:1] == ["DontCare"] or not fields:
            continue
        if len(fields) != _FIELDS or fields[0] not in KITTI_TYPES or not _is_distance(fields[_Z]):
            raise ConfigError(
                f"data.root: {file} line {number} is {quoted(line)}, should be a type of {', '.join(KITTI_TYPES)} "
                f"and {_FIELDS - 1} numbers"
            )
        types.append(KITTI_TYPES.index(fields[0]))
        depths.append(float(fields[_Z]))
    return kitti_distance(types, depths)
