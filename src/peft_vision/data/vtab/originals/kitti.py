"""KITTI's object detection images, by the distance of the nearest vehicle (Geiger et al., 2012).

training/image_2/000000.png  training/label_2/000000.txt    an object a line: Truck ... height width length x y z ry
mapping/train_mapping.txt    which video and frame each line is of: 2011_09_26 2011_09_26_drive_0005_sync 0000000109
mapping/train_rand.txt       which line of it each image is of, counted from 1, on one line with commas
"""

from pathlib import Path

import numpy as np

from peft_vision.config import ConfigError
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.vtab.labels import CLASSES, KITTI_TYPES, kitti_distance
from peft_vision.data.vtab.order import chosen, stored
from peft_vision.data.vtab.presence import home, require
from peft_vision.data.vtab.release import Release

_SEED = 123  # of TensorFlow Datasets, which draws the videos
_PERCENT = 10  # of the videos validate, and as many test
_FIELDS = 15  # of a line of a label file
_Z = 13


def read(root: Path) -> Release:
    """Divided by video, as TensorFlow Datasets does: neighbouring frames look alike."""
    folder = home(root, "kitti", "KITTI")
    kit = home(folder, "devkit_object", "devkit")
    site = "www.cvlibs.net/datasets/kitti/eval_object.php"
    require(
        folder,
        ["training/image_2", "training/label_2"],
        what="KITTI",
        site=f"{site} (data_object_image_2.zip, 12 GB; data_object_label_2.zip)",
    )
    mapping, order = "mapping/train_mapping.txt", "mapping/train_rand.txt"
    require(kit, [mapping, order], what="KITTI's development kit", site=f"{site} (devkit_object.zip, 1 MB)")
    parts = {
        split: _labelled(root, folder / "training", names)
        for split, names in _by_video(kit / mapping, kit / order, folder / "training").items()
    }
    train, val = (
        stored(parts[split], split, [Path(path).name for path in parts[split].pictures.paths])
        for split in ("train", "validation")
    )
    return chosen(train, val, parts["test"], classes=CLASSES["kitti"], files=[kit / mapping, kit / order])


def _by_video(mapping: Path, order: Path, training: Path) -> dict[str, list[str]]:
    """The names of the images of each split, without their endings."""
    try:
        videos = [line.split()[1] for line in mapping.read_text(encoding="ascii").splitlines() if line.strip()]
        numbers = [int(number) for number in order.read_text(encoding="ascii").split(",")]
        video_of = [videos[number - 1] for number in numbers]
    except (ValueError, IndexError) as error:
        raise ConfigError(f"data.root: cannot read {mapping} and {order.name} ({error}); unpack them again") from error
    names = [f"{image:06d}" for image in range(len(video_of))]
    for folder, ending in (("image_2", "png"), ("label_2", "txt")):
        there = {path.stem for path in (training / folder).glob(f"*.{ending}")}
        if there != set(names):
            raise ConfigError(
                f"data.root: {training / folder} holds {len(there)} .{ending} files, should hold the {len(names)} "
                f"that {order} speaks of\nunpack it again"
            )
    draws = np.random.RandomState(_SEED)
    drawn = sorted(set(video_of))
    count = max(1, _PERCENT * len(drawn) // 100)
    test = set(draws.choice(drawn, count, replace=False).tolist())
    val = set(draws.choice([video for video in drawn if video not in test], count, replace=False).tolist())
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name, video in zip(names, video_of, strict=True):
        splits["test" if video in test else "validation" if video in val else "train"].append(name)
    return splits


def _labelled(root: Path, training: Path, names: list[str]) -> Labelled:
    folder = (training / "image_2").relative_to(root).as_posix()
    return labelled(
        Files(root, [f"{folder}/{name}.png" for name in names]),
        [_label(training / "label_2" / f"{name}.txt") for name in names],
    )


def _label(file: Path) -> int:
    types, depths = [], []
    for number, line in enumerate(file.read_text(encoding="ascii").splitlines(), start=1):
        fields = line.split()
        if fields[:1] == ["DontCare"] or not fields:
            continue
        if len(fields) != _FIELDS or fields[0] not in KITTI_TYPES:
            raise ConfigError(
                f"data.root: {file} line {number} is {line!r}, should be a type of {', '.join(KITTI_TYPES)} "
                f"and {_FIELDS - 1} numbers"
            )
        types.append(KITTI_TYPES.index(fields[0]))
        depths.append(float(fields[_Z]))
    return kitti_distance(types, depths)
