"""This module opens a task of VTAB-1k: 800 training images, 200 validation images and all test images (Zhai et al.,
2019, arXiv:1910.04867).

source      format of the images                                     the 1,000 training and validation images
processed   image files with lists, as commonly redistributed        given by the lists
original    the data set as it was published                         the benchmark's, or of `index_file`, or drawn
tfds        as TensorFlow Datasets prepared them                     the benchmark's
parquet     parquet files, in a folder or on the hub                 of `index_file`, or all of the files, or drawn
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Annotated, Literal

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.data.benchmark import WAY_OUT, BenchmarkData, Release
from peft_vision.data.benchmark_tables import TASKS, TRAIN, VAL, BenchmarkSet
from peft_vision.data.decode import format_of, worded_formats
from peft_vision.data.divide import without_images
from peft_vision.data.parquet import Stored
from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import located
from peft_vision.data.splits import LabelledSets
from peft_vision.data.vtab.choice import drawn, listed_images
from peft_vision.data.vtab.processed import read_parquet, read_processed
from peft_vision.data.vtab.raw.table import READERS
from peft_vision.data.vtab.tfds import read_prepared

_log = logging.getLogger("peft_vision")
_RESAVED = ("processed", "parquet")  # sources whose images may have been saved again, possibly as JPEG
_LISTS = {
    "processed": "the copy's own",
    "original": "the official one, by the order of TensorFlow Datasets computed anew",
    "tfds": "as the official one, slices of the splits of TensorFlow Datasets",
}
"""Descriptions of the 1,000 images, for sources that fix them."""


@component
class Vtab(BenchmarkData):
    """A task of VTAB-1k. `index_file`: chooses the 1,000 images for a source without lists. As in the benchmark, some
    classes may lack a training image."""

    title = "VTAB-1k "
    gaps = True

    task: Literal[tuple(TASKS)]
    source: Literal["processed", "original", "tfds", "parquet"]
    index_file: Annotated[str | None, FILE]
    parquet: Stored

    def entry(self) -> BenchmarkSet:
        return TASKS[self.task]

    def release(self) -> tuple[Release, Mapping[str, str]]:
        task = self.entry()
        release, index_list = self._chosen(self._read(task))
        _require_classes(release, task, miniature=self.miniature)
        if task.small and self.source in _RESAVED and format_of(next(release.train.contents())) == "JPEG":
            _warn_of_jpeg(task.title)
        return release, {"index list": index_list} | ({"remark": release.remark} if release.remark else {})

    def provenance(self, sets: LabelledSets, seen: Sequence[Labelled]) -> dict[str, str]:
        """Return the provenance with the encoding and checksum of all 1,000 images instead of a sample."""
        sha, kinds = hashlib.sha256(), Counter()
        for content in chain(sets.train.contents(), sets.val.contents()):
            sha.update(content)
            kinds[format_of(content)] += 1
        images = f"sha256 {sha.hexdigest()} of {len(sets.train)} + {len(sets.val)} images"
        return {**super().provenance(sets, seen), "encoding": worded_formats(kinds), "images": images}

    def _read(self, task: BenchmarkSet) -> Release:
        root = self.folder()
        match self.source:
            case "processed":
                return read_processed(root, task)
            case "tfds":
                return read_prepared(root, task)
            case "parquet":
                return read_parquet(root, task, self.parquet)
            case "original":
                return READERS[task.name](root)

    def _chosen(self, release: Release) -> tuple[Release, str]:
        """Return the release with its 800 and 200 images, and how these were chosen. ConfigError for an index file if
        the source fixes them."""
        if self.index_file is not None:
            if release.chosen:
                raise ConfigError(
                    f"data.index_file: with data.source={self.source} the 1,000 images of {self.task} are known; "
                    "data.index_file=null takes these"
                )
            file = located(self.index_file)
            return listed_images(file, release), f"given by {file.name}"
        if release.chosen:
            return release, _LISTS[self.source]
        if release.val is not None and len(release.train) <= TRAIN and len(release.val) <= VAL:
            return release, "the release's own"
        how = f"not the official one, drawn with data.split_seed={self.split_seed}"
        return drawn(release, seed=self.split_seed), how


def _require_classes(release: Release, task: BenchmarkSet, *, miniature: bool) -> None:
    """Raise ConfigError unless the number of classes is the task's, labels are in range and, except in a miniature,
    each class has a test image."""
    if len(release.classes) != task.num_classes:
        raise ConfigError(
            f"data: this copy of {task.title} has {len(release.classes)} classes, VTAB-1k's has {task.num_classes}"
        )
    for split, part in (("train", release.train), ("validation", release.val), ("test", release.test)):
        outside = part.labels[(part.labels < 0) | (part.labels >= task.num_classes)]
        if len(outside):
            raise ConfigError(
                f"data: {len(outside)} {split} images of {task.title} have labels such as {int(outside[0])}; "
                f"should be 0 to {task.num_classes - 1}"
            )
    missing = without_images(release.test, release.classes)
    if missing and not miniature:
        raise ConfigError(
            f"data: no test image of {len(missing)} of the {task.num_classes} classes of {task.title}, such as "
            f"{missing[0]!r}\n{WAY_OUT}"
        )


@cache  # one warning per task, though a run opens its data set several times
def _warn_of_jpeg(title: str) -> None:
    _log.warning(
        "the images of %s were saved as JPEG, which blurs pictures this small: CIFAR-100 loses about ten points of "
        "accuracy. data.source=original or tfds reads them as they were published",
        title,
    )
