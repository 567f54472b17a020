"""FGVC is a benchmark of five fine-grained data sets whose classes differ in details, reported together since VPT (Jia
et al., 2022, arXiv:2203.12119).

release   as the authors published it
json      split by train.json, test.json and perhaps val.json next to the pictures
folders   sorted into train/CLASS/, test/CLASS/ and perhaps val/CLASS/
"""

import logging
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import NOT_HASHED, HashDefault, component
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.data.base import SPLITS, Data
from peft_vision.data.divide import without_images
from peft_vision.data.fgvc import birds, cars, class_folders, dogs, flowers, json_splits
from peft_vision.data.fgvc.collection import COLLECTIONS
from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Label
from peft_vision.data.fgvc.whole import require_numbers, require_pictures
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.splits import Extent, LabelledSets, Splits

_log = logging.getLogger("peft_vision")
_RELEASES = {"cub200": birds, "nabirds": birds, "flowers102": flowers, "dogs": dogs, "cars": cars}
_OWN = {
    "release": "official validation split",
    "json": "validation split of val.json",
    "folders": "validation split val/",
}
_DRAWN = "validation part drawn by peft-vision (not an official split)"
_NAMED = 3  # classes named in a warning


@component
class FGVC(Data):
    """A data set of FGVC. `root`: the folder that holds data sets, each in its own sub-folder. `miniature`: a
    rehearsal, with other numbers of classes and images."""

    name: Literal[tuple(COLLECTIONS)]
    root: Annotated[str, NOT_HASHED]
    source: Literal["release", "json", "folders"]
    miniature: Annotated[bool, HashDefault(False)]

    def open(self) -> LabelledSets:
        """Return the splits. Class ids follow the sorted labels of all splits together, so a split that lacks a class
        has the same ids."""
        collection = COLLECTIONS[self.name]
        copy = Copy(Path(self.root).expanduser().absolute() / collection.folder, collection)
        reader = {"release": _RELEASES[self.name], "json": json_splits, "folders": class_folders}[self.source]
        listing = reader.read(copy)
        require_pictures(copy, listing)
        if not self.miniature:
            require_numbers(copy, listing)
        ids = {label: place for place, label in enumerate(sorted(listing.names))}
        parts = {split: _part(copy.folder, labels, ids) for split, labels in listing.splits.items()}
        return LabelledSets(
            name=f"{collection.title} ({self.source})",
            train=parts["train"],
            val=parts.get("val"),
            test=parts["test"],
            classes=_unique(listing.names),
            remark=self._remark(has_val="val" in parts),
            group="fgvc",
            provenance={"source": self.source},
            files=listing.files,
        )

    def known(self) -> Extent | None:
        collection = COLLECTIONS[self.name]
        val = collection.val or round(self.val_fraction * collection.train)
        images = {
            "train": collection.train if collection.val else collection.train - val,
            "val": val,
            "test": collection.test,
        }
        return None if self.miniature else Extent(images, collection.num_classes)

    def load(self, preprocessing: Preprocessing, *, read: Set[str] = SPLITS) -> Splits:
        """Load the splits, and warn about classes without an image in one of them."""
        splits = super().load(preprocessing, read=read)
        for split, images in splits.parts().items():
            if missing := without_images(images, splits.classes):
                named = ", ".join(missing[:_NAMED]) + (", ..." if missing[_NAMED:] else "")
                _log.warning("data      no %s image of %d classes: %s", split, len(missing), named)
        return splits

    def _remark(self, *, has_val: bool) -> str:
        drawn = self.val_fraction > 0 and self.stage in ("all", "tune")
        validation = _OWN[self.source] if has_val else _DRAWN if drawn else ""
        miniature = "miniature: proves nothing about accuracy" if self.miniature else ""
        return "; ".join(text for text in (validation, miniature) if text)


def _part(folder: Path, labels: Mapping[str, Label], ids: Mapping[Label, int]) -> Labelled:
    return labelled(Files(folder, list(labels)), [ids[label] for label in labels.values()])


def _unique(names: Mapping[Label, str]) -> tuple[str, ...]:
    """Return the class names in the order of their labels; classes with the same name have their labels added."""
    counts = Counter(names.values())
    return tuple(names[label] if counts[names[label]] == 1 else f"{names[label]} ({label})" for label in sorted(names))
