"""This module opens data sets of torchvision, with labels or with masks, each a row of `torchvision_table.TABLE`.

A data set on disk is never downloaded again. EuroSAT and Caltech101 have no official test split: 20 % are
drawn with a fixed seed, whatever the `split_seed`, and `Splits.source` says so.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from peft_vision.core.config import NOT_HASHED, ConfigError, component
from peft_vision.core.records import open_regular
from peft_vision.data.augment import MOVE_MASKS
from peft_vision.data.base import Data
from peft_vision.data.divide import test_part
from peft_vision.data.download import fetch, packed, present, reachable, ways_out
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import located, reading
from peft_vision.data.splits import LabelledSets
from peft_vision.data.torchvision_readers import KEY
from peft_vision.data.torchvision_table import TABLE

TEST_FRACTION = 0.2


@component
class TorchvisionData(Data):
    """A data set of torchvision; `root` is the folder that holds data sets in torchvision's layout."""

    name: Literal[tuple(TABLE)]
    root: Annotated[str, NOT_HASHED]
    download: Annotated[bool, NOT_HASHED]

    @model_validator(mode="after")
    def _moves_masks(self) -> "TorchvisionData":
        if TABLE[self.name].masked and self.augment not in MOVE_MASKS:
            raise ValueError(f"augment={self.augment} does not move masks; {', '.join(MOVE_MASKS)} do")
        return self

    def check(self) -> None:
        """Raise ConfigError unless the data set is on disk or can be downloaded; a site has PROBE_SECONDS to answer."""
        entry, root = TABLE[self.name], located(self.root)
        if present(entry, root):
            return
        if not self.download:
            raise ConfigError(f"data: no {self.name} in {root} and data.download=false\n{ways_out(entry)}")
        if not packed(entry, root) and not reachable(entry.site):
            raise ConfigError(f"data: no {self.name} in {root}, and {entry.site} does not answer\n{ways_out(entry)}")

    def without_download(self) -> Self:
        """Return this data set with download=false, which raises ConfigError where it would have to be downloaded."""
        return replace(self, download=False)

    def open(self) -> LabelledSets:
        """Return the official splits, or a drawn test split if there is no official one."""
        self.check()
        entry, root = TABLE[self.name], located(self.root)
        fetch(self.name, entry, root)
        train, classes = self._read(entry.train)
        if entry.test is None:
            train, test = test_part(train, TEST_FRACTION)
            remark = "test part drawn by peft-vision (not an official split)"
            return LabelledSets(name=self.name, train=train, val=None, test=test, classes=classes, remark=remark)
        test, test_classes = self._read(entry.test)
        if test_classes != classes:
            raise ConfigError(f"data: train and test of {self.name} in {root} differ in their classes")
        return LabelledSets(
            name=self.name,
            train=train,
            val=self._read(entry.val)[0] if entry.val else None,
            test=test,
            classes=classes,
            remark="official validation split" if entry.val else entry.remark,
            gaps=entry.masked,
        )

    def _read(self, arguments: Mapping[str, Any]) -> tuple[Labelled, tuple[str, ...]]:
        return read_split(self.name, located(self.root), arguments, again="start again with data.download=true")


def read_split(name: str, root: Path, arguments: Mapping[str, Any], *, again: str) -> tuple[Labelled, tuple[str, ...]]:
    """Return the images of one split of a data set on disk, and its classes. ConfigError if it is damaged; `again` says
    how to fetch it again."""
    entry = TABLE[name]
    try:
        for file, md5 in entry.sums.items():
            require_sum(root / file, md5)
        pictures, labels, classes = entry.read(root, **arguments)
    except ConfigError as error:
        found = str(error).splitlines()[0].removeprefix(f"{KEY}: ")
        raise ConfigError(
            f"data: {name} in {root} is damaged: {found}\nremove {', '.join(entry.contents)} there and {again}"
        ) from error
    return labelled(pictures, labels), classes


def require_sum(path: Path, md5: str) -> None:
    """Raise ConfigError unless the md5 of a file is that of the published one."""
    with reading(path, "the published file", key=KEY, remedy=""), open_regular(path) as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            raise ValueError(f"its md5 is {found}, not {md5}")
