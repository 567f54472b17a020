"""A copy sorted into train/CLASS/, test/CLASS/ and perhaps val/CLASS/, as mirrors of Stanford Cars are."""

from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing
from peft_vision.data.walk import image_files


def read(copy: Copy) -> Listing:
    """Labels are the names of the folders."""
    copy.require("train", "test")
    splits: dict[str, dict[str, str]] = {}
    for split in ("train", "val", "test"):
        folder = copy.folder / split
        if folder.is_dir():
            paths = image_files(folder, copy.folder, key="data.root")
            splits[split] = {path: path.split("/")[1] for path in paths if path.count("/") > 1}
    names = {label: label for labels in splits.values() for label in labels.values()}
    return Listing(splits, names, ())
