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
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, NOT_HASHED, ConfigError, component
from peft_vision.data.base import Data
from peft_vision.data.parquet import Stored
from peft_vision.data.pictures import Labelled
from peft_vision.data.provenance import each, kind, worded
from peft_vision.data.splits import Extent, LabelledSets
from peft_vision.data.vtab.drawn import drawn
from peft_vision.data.vtab.index_list import chosen
from peft_vision.data.vtab.originals.table import READERS
from peft_vision.data.vtab.parquet_release import read_parquet
from peft_vision.data.vtab.prepared import read_prepared
from peft_vision.data.vtab.processed import read_processed
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import TASKS, TRAIN, VAL, VtabTask
from peft_vision.data.vtab.whole import require_classes, require_counts

_log = logging.getLogger("peft_vision")
_RESAVED = ("processed", "parquet")  # sources whose images may have been saved again, possibly as JPEG
_LISTS = {
    "processed": "the copy's own",
    "original": "the official one, by the order of TensorFlow Datasets computed anew",
    "tfds": "as the official one, slices of the splits of TensorFlow Datasets",
}
"""Descriptions of the 1,000 images, for sources that fix them."""
_REHEARSAL = "proves nothing about accuracy"


@component
class Vtab(Data):
    """A task of VTAB-1k. `root`: the folder that holds data sets. `index_file`: chooses the 1,000 images for a source
    without lists. `miniature`: a rehearsal, with other numbers of images than the benchmark."""

    task: Literal[tuple(TASKS)]
    source: Literal["processed", "original", "tfds", "parquet"]
    root: Annotated[str, NOT_HASHED]
    index_file: Annotated[str | None, FILE]
    miniature: bool
    parquet: Stored

    def open(self) -> LabelledSets:
        """Return the task's splits; as in the benchmark, some classes may lack a training image. ConfigError for a copy
        that does not match the benchmark."""
        task = TASKS[self.task]
        release, index_list = self._chosen(self._release(task))
        require_classes(release, task, miniature=self.miniature)
        if not self.miniature:
            require_counts(release, task)
        if task.small and self.source in _RESAVED and kind(next(each(release.train))) == "JPEG":
            _warn_of_jpeg(task.title)
        facts = {"index list": index_list}
        facts |= {"remark": release.remark} if release.remark else {}
        facts |= {"miniature": _REHEARSAL} if self.miniature else {}
        return LabelledSets(
            name=f"VTAB-1k {task.title} ({self.source})",
            train=release.train,
            val=release.val,
            test=release.test,
            classes=release.classes,
            remark="; ".join(text if key == "remark" else f"{key}: {text}" for key, text in facts.items()),
            gaps=True,
            group=task.group,
            provenance={"source": self.source, **facts},
            files=release.files,
        )

    def known(self) -> Extent | None:
        task = TASKS[self.task]
        images = {"train": TRAIN, "val": VAL, "test": task.test_size}
        return None if self.miniature else Extent(images, task.num_classes)

    def provenance(self, sets: LabelledSets, seen: Sequence[Labelled]) -> dict[str, str]:
        """Return the provenance with the encoding and checksum of all 1,000 images instead of a sample."""
        sha, kinds = hashlib.sha256(), Counter()
        for content in chain(each(sets.train), each(sets.val)):
            sha.update(content)
            kinds[kind(content)] += 1
        images = f"sha256 {sha.hexdigest()} of {len(sets.train)} + {len(sets.val)} images"
        return {**super().provenance(sets, seen), "encoding": worded(kinds), "images": images}

    def _release(self, task: VtabTask) -> Release:
        root = Path(self.root).expanduser().absolute()
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
            file = Path(self.index_file).expanduser().absolute()
            return chosen(file, release), f"given by {file.name}"
        if release.chosen:
            return release, _LISTS[self.source]
        if release.val is not None and len(release.train) <= TRAIN and len(release.val) <= VAL:
            return release, "the release's own"
        how = f"not the official one, drawn with data.split_seed={self.split_seed}"
        return drawn(release, seed=self.split_seed), how


@cache  # one warning per task, though a run opens its data set several times
def _warn_of_jpeg(title: str) -> None:
    _log.warning(
        "the images of %s were saved as JPEG, which blurs pictures this small: CIFAR-100 loses about ten points of "
        "accuracy. data.source=original or tfds reads them as they were published",
        title,
    )
