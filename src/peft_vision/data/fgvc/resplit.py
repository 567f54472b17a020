"""This module reads copies of FGVC's data sets that others divided, by JSON files or by folders.

json      train.json, test.json and perhaps val.json next to the pictures, as published for VPT:
          {"001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg": 0, ...}
          Paths are below the copy's folder, or below its folder of pictures; labels are all integers or all strings.
folders   train/CLASS/, test/CLASS/ and perhaps val/CLASS/, as mirrors of Stanford Cars are; splits may have any of the
          names that `folders.split_of` knows
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.core.records import exists
from peft_vision.data.fgvc.listing import Copy, Label, Listing
from peft_vision.data.folders import image_files, splits_among, sub_folders
from peft_vision.data.reading import missing_among, quoted, read_json, refuse_repeated, short


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
