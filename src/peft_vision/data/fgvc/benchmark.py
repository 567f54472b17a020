"""FGVC is a benchmark of five fine-grained data sets whose classes differ in details, reported together since VPT (Jia
et al., 2022, arXiv:2203.12119).

release   as the authors published it
json      split by train.json, test.json and perhaps val.json next to the pictures
folders   sorted into train/CLASS/, test/CLASS/ and perhaps val/CLASS/
"""

import logging
from collections.abc import Mapping, Set
from typing import Annotated, Literal

from peft_vision.core.config import HashDefault, component
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.data.base import SPLITS
from peft_vision.data.benchmark import BenchmarkData, Release
from peft_vision.data.benchmark_tables import COLLECTIONS, BenchmarkSet
from peft_vision.data.divide import absent_classes
from peft_vision.data.fgvc import birds, matlab_tables, resplit
from peft_vision.data.fgvc.listing import Copy
from peft_vision.data.reading import first_few
from peft_vision.data.splits import Splits

_log = logging.getLogger("peft_vision")
_RELEASES = {
    "cub200": birds.read,
    "nabirds": birds.read,
    "flowers102": matlab_tables.read_flowers,
    "dogs": matlab_tables.read_dogs,
    "cars": matlab_tables.read_cars,
}
_OWN = {
    "release": "official validation split",
    "json": "validation split of val.json",
    "folders": "validation split val/",
}
_DRAWN = "validation part drawn by peft-vision (not an official split)"


@component
class FGVC(BenchmarkData):
    """A data set of FGVC; a miniature may have another number of classes too."""

    title = ""
    gaps = False

    name: Literal[tuple(COLLECTIONS)]
    source: Literal["release", "json", "folders"]
    miniature: Annotated[bool, HashDefault(False)]

    def entry(self) -> BenchmarkSet:
        return COLLECTIONS[self.name]

    def release(self) -> tuple[Release, Mapping[str, str]]:
        copy = Copy(self.folder(), self.entry())
        others = {"json": resplit.read_json_splits, "folders": resplit.read_class_folders}
        listing = others.get(self.source, _RELEASES[self.name])(copy)
        drawn = self.val_fraction > 0 and self.stage in ("all", "tune")
        remark = _OWN[self.source] if "val" in listing.splits else _DRAWN if drawn else ""
        return listing.release(copy, remark), {"remark": remark} if remark else {}

    def load(self, preprocessing: Preprocessing, *, read: Set[str] = SPLITS) -> Splits:
        """Load the splits, and warn about classes without an image in one of them."""
        splits = super().load(preprocessing, read=read)
        for split, images in splits.parts().items():
            if missing := absent_classes(images.labels, splits.classes):
                _log.warning("data      no %s image of %d classes: %s", split, len(missing), first_few(missing))
        return splits
