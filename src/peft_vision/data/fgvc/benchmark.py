"""FGVC is a benchmark of five fine-grained data sets whose classes differ in details, reported together since VPT (Jia
et al., 2022, arXiv:2203.12119).

release   as the authors published it
json      train.json, test.json and perhaps val.json next to the pictures, as published for VPT:
          {"001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg": 0, ...}
          Paths are below the copy's folder, or below its folder of pictures; labels are all integers or all strings.
folders   train/CLASS/, test/CLASS/ and perhaps val/CLASS/, as mirrors of Stanford Cars are; splits may have any of the
          names that `folders.split_of` knows
"""

import json
import logging
from collections.abc import Mapping, Set
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from peft_vision.core.config import ConfigError, HashDefault, component
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.core.records import exists
from peft_vision.data.base import SPLITS
from peft_vision.data.benchmark import COLLECTIONS, BenchmarkData, BenchmarkSet, Release
from peft_vision.data.divide import without_images
from peft_vision.data.fgvc.releases import Copy, Label, Listing, read_birds, read_cars, read_dogs, read_flowers
from peft_vision.data.folders import image_files, splits_among, sub_folders
from peft_vision.data.reading import first_few, missing_among, quoted, read_json, refuse_repeated, short
from peft_vision.data.splits import Splits


def read_json_splits(copy: Copy) -> Listing:
    """Return the listing; classes are named by their labels."""
    copy.require("train.json", "test.json")
    files = [copy.folder / f"{split}.json" for split in ("train", "val", "test")]
    files = [file for file in files if exists(file)]
    raw = {file.stem: _labels(file) for file in files}
    kinds = {type(label) for labels in raw.values() for label in labels.values()}
    if len(kinds) > 1:
        listed = ", ".join(file.name for file in files)
        raise ConfigError(f"data.source: some labels of {copy.folder} ({listed}) are integers and some are strings")
    splits = _below_folder(copy, raw)
    names = {label: str(label) for labels in splits.values() for label in labels.values()}
    return Listing(splits, names, tuple(files))


def _labels(file: Path) -> dict[str, Label]:
    content: Any = read_json(file, "one object with a label for each picture's path", key="data.source")
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"data.source: {file} should be one object with a label for each picture's path")
    for path, label in content.items():
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            raise ConfigError(
                f"data.source: {file} labels {quoted(path)} with {short(json.dumps(label))}, "
                "should be an integer or a string"
            )
    paths = [str(PurePosixPath(path)) for path in content]
    refuse_repeated(paths, file, key="data.source")
    return dict(zip(paths, content.values(), strict=True))


def _below_folder(copy: Copy, raw: dict[str, dict[str, Label]]) -> dict[str, dict[str, Label]]:
    """Return the splits with the prefix, if any, under which most pictures exist: the same for all, so that none is
    found by chance."""
    paths = [path for labels in raw.values() for path in labels]
    prefixes = ("", *(f"{folder}/" for folder in copy.entry.pictures))
    prefix = min(prefixes, key=lambda prefix: len(missing_among([f"{prefix}{path}" for path in paths], copy.folder)))
    return {split: {f"{prefix}{path}": label for path, label in labels.items()} for split, labels in raw.items()}


def read_class_folders(copy: Copy) -> Listing:
    """Return the listing; labels are the names of the class folders."""
    folders = splits_among(sub_folders(copy.folder, key="data.root"), key="data.root") if copy.folder.is_dir() else {}
    copy.require(*(f"{split}/" for split in ("train", "test") if split not in folders))
    splits: dict[str, dict[str, str]] = {}
    for split, folder in folders.items():
        paths = image_files(folder, copy.folder, key="data.root")
        splits[split] = {path: path.split("/")[1] for path in paths if path.count("/") > 1}
    names = {label: label for labels in splits.values() for label in labels.values()}
    return Listing(splits, names, ())


_log = logging.getLogger("peft_vision")
_RELEASES = {
    "cub200": read_birds,
    "nabirds": read_birds,
    "flowers102": read_flowers,
    "dogs": read_dogs,
    "cars": read_cars,
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
        others = {"json": read_json_splits, "folders": read_class_folders}
        listing = others.get(self.source, _RELEASES[self.name])(copy)
        drawn = self.val_fraction > 0 and self.stage in ("all", "tune")
        remark = _OWN[self.source] if "val" in listing.splits else _DRAWN if drawn else ""
        return listing.release(copy, remark), {"remark": remark} if remark else {}

    def load(self, preprocessing: Preprocessing, *, read: Set[str] = SPLITS) -> Splits:
        """Load the splits, and warn about classes without an image in one of them."""
        splits = super().load(preprocessing, read=read)
        for split, images in splits.parts().items():
            if missing := without_images(images, splits.classes):
                _log.warning("data      no %s image of %d classes: %s", split, len(missing), first_few(missing))
        return splits
