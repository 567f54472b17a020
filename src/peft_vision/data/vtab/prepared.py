"""This module reads VTAB-1k, with the benchmark's own choice of images, from files of TensorFlow Datasets, without
TensorFlow.

root/cifar100/3.0.2/dataset_info.json  cifar100-train.tfrecord-00000-of-00001  cifar100-test.tfrecord-00000-of-00001

Splits are slices of the stored order: the first 800 of train, the first 200 of another split or of train's held-out
end.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from peft_vision.core.config import ConfigError
from peft_vision.core.records import exists, open_regular
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import BROKEN, read_json, read_lines, reading, reason
from peft_vision.data.vtab.prepared_table import PREPARED, Prepared, Slice
from peft_vision.data.vtab.records import Encoded, Place, place_of
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import TASKS, TRAIN, VAL, VtabTask
from peft_vision.data.vtab.tfrecord import example, records

_INFO = "dataset_info.json"
_LONGEST_NAME = 100  # characters of a class name


class Silhouettes(Encoded):
    """Images whose pixels are stored as 0 and 1 and are read as black and white."""

    def read(self, index: int) -> Image.Image:
        return super().read(index).point(lambda value: min(255 * value, 255))


@dataclass(frozen=True)
class _Folder:
    """A folder with one version of a data set; `lengths`: the numbers of records in the files of each split."""

    path: Path
    prepared: Prepared
    lengths: dict[str, list[int]]

    def take(self, part: Slice, most: int | None, task: str) -> Labelled:
        """Return the first `most` images of a slice, or all of them."""
        total = sum(self.lengths[part.split])
        start, end = (round(share * total / 100) for share in (part.start, part.end))
        end = end if most is None else min(start + most, end)
        places, labels = [], []
        before = 0
        for shard, length in enumerate(self.lengths[part.split]):
            first, last = max(start - before, 0), min(end - before, length)
            before += length
            if first < last:
                file = self.file(part.split, shard)
                stamp = file.stat()
                found = _records(file, (stamp.st_mtime_ns, stamp.st_size, stamp.st_ino), task, first, last, length)
                places += [place for place, _ in found]
                labels += [label for _, label in found]
        pictures = Silhouettes(places) if self.prepared.silhouettes else Encoded(places)
        return labelled(pictures, labels)

    def file(self, split: str, shard: int) -> Path:
        return self.path / f"{self.prepared.name}-{split}.tfrecord-{shard:05d}-of-{len(self.lengths[split]):05d}"


def read_prepared(root: Path, task: VtabTask) -> Release:
    """Return the release. ConfigError unless every file of its splits exists, with as many records as noted for it."""
    folder = _folder(root, PREPARED[task.name])
    prepared = folder.prepared
    version = folder.path.name
    other = f"prepared as version {version}; the official list is of {prepared.version}"
    return Release(
        train=folder.take(prepared.train, TRAIN, task.name),
        val=folder.take(prepared.val, VAL, task.name),
        test=folder.take(prepared.test, None, task.name),
        classes=_classes(folder.path, task),
        files=(folder.path / _INFO,),
        remark=other if version != prepared.version else "",
        chosen=True,
    )


@cache  # a run opens its data set several times, and finding labels means reading whole records
def _records(
    file: Path, stamp: tuple[int, int, int], task: str, first: int, last: int, count: int
) -> tuple[tuple[Place, int], ...]:
    """Return image and label of records `first` to `last` of the `count` in `file`. `stamp`: its modification time,
    size and inode, so that a replaced file is not taken from the cache."""
    spans = list(records(file))
    if len(spans) != count:
        raise ConfigError(f"data: {file} has {len(spans):,} records, should have {count:,}; prepare it anew")
    found, last_label = [], TASKS[task].num_classes - 1
    with open_regular(file) as stream:
        for offset, length in spans[first:last]:
            stream.seek(offset)
            payload = stream.read(length)
            try:
                features = example(payload)
                place, label = place_of(features["image"][0], file, payload, offset), PREPARED[task].label(features)
            except BROKEN as error:
                raise ConfigError(
                    f"data: {file} has no image and label of {PREPARED[task].folder} at byte {offset} ({reason(error)})"
                ) from error
            if not 0 <= label <= last_label:
                raise ConfigError(f"data: {file} has label {label} at byte {offset}, should be 0 to {last_label}")
            found.append((place, label))
    return tuple(found)


def _folder(root: Path, prepared: Prepared) -> _Folder:
    place = root / prepared.folder
    versions = sorted(path.parent for path in place.glob(f"*/{_INFO}"))
    if not versions:
        raise ConfigError(
            f"data.root: no {place}/{prepared.version}/{_INFO}\n"
            f"where TensorFlow Datasets is installed, tfds.load({prepared.folder!r}, data_dir=...) prepares it; "
            "data.root is that data_dir"
        )
    path = next((version for version in versions if version.name == prepared.version), versions[-1])
    splits = {"train", prepared.val.split, prepared.test.split}
    folder = _Folder(path, prepared, _lengths(path / _INFO, splits))
    files = [folder.file(split, shard) for split in sorted(splits) for shard in range(len(folder.lengths[split]))]
    if missing := [file for file in files if not file.is_file()]:
        raise ConfigError(
            f"data.root: {len(missing)} of {len(files)} files of {_INFO} are missing: {missing[0]}; prepare it anew"
        )
    return folder


def _lengths(file: Path, splits: set[str]) -> dict[str, list[int]]:
    expected = f"the numbers of records in the files of {', '.join(sorted(splits))}"
    info = read_json(file, expected, remedy="prepare it anew")
    with reading(file, expected, remedy="prepare it anew"):
        noted = {split["name"]: split["shardLengths"] for split in info["splits"]}
        lengths = {split: [int(length) for length in noted[split]] for split in splits}
        if any(not counts or min(counts) < 0 for counts in lengths.values()):
            raise ValueError("numbers that are none of records")
        return lengths


def _classes(folder: Path, task: VtabTask) -> tuple[str, ...]:
    """Return the class names in label.labels.txt; without this file the task computes its own labels, and names are
    numbers."""
    file = folder / "label.labels.txt"
    if not exists(file):
        return tuple(str(label) for label in range(task.num_classes))
    names = tuple(name for name in read_lines(file, "the names of the classes", remedy="prepare it anew") if name)
    if not len(names) == len(set(names)) == task.num_classes or max(map(len, names)) > _LONGEST_NAME:
        raise ConfigError(
            f"data.root: {file} names {len(set(names))} classes in {len(names)} lines, should name {task.num_classes}; "
            "prepare it anew"
        )
    return names
