"""This module reads a copy sorted into train/CLASS/, test/CLASS/ and perhaps val/CLASS/, as mirrors of Stanford Cars
are. The splits may have any of the names in split_folders.py."""

from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing
from peft_vision.data.folders import image_files, splits_among, sub_folders


def read(copy: Copy) -> Listing:
    """Return the listing; labels are the names of the class folders."""
    folders = splits_among(sub_folders(copy.folder, key="data.root"), key="data.root") if copy.folder.is_dir() else {}
    if missing := [split for split in ("train", "test") if split not in folders]:
        copy.require(*missing)
        raise copy.fault(f"{copy.folder / missing[0]} is no folder", wanted=missing[0])
    splits: dict[str, dict[str, str]] = {}
    for split, folder in folders.items():
        paths = image_files(folder, copy.folder, key="data.root")
        splits[split] = {path: path.split("/")[1] for path in paths if path.count("/") > 1}
    names = {label: label for labels in splits.values() for label in labels.values()}
    return Listing(splits, names, ())
