"""This module reads Stanford Dogs (Khosla et al., 2011): Images/n02085620-Chihuahua/n02085620_5927.jpg and so on.

train_list.mat, test_list.mat   file_list: paths below Images/; labels: 1 to 120
"""

from peft_vision.core.config import ConfigError
from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing
from peft_vision.data.fgvc.tables import labelled_paths
from peft_vision.data.matlab import read_mat
from peft_vision.data.reading import short


def read(copy: Copy) -> Listing:
    """Return the listing; classes are named by their folders."""
    copy.require("train_list.mat", "test_list.mat", "Images")
    files = {split: copy.folder / f"{split}_list.mat" for split in ("train", "test")}
    splits = {
        split: labelled_paths(file, *read_mat(file, "file_list", "labels"), folder="Images")
        for split, file in files.items()
    }
    for split, file in files.items():
        if strange := [path for path in splits[split] if path.count("/") != 2]:
            raise ConfigError(f"data.root: {file} names {short(strange[0])}, should be CLASS/FILE; fetch it again")
    names = {label: path.split("/")[1] for labels in splits.values() for path, label in labels.items()}
    return Listing(splits, names, tuple(files.values()))
