"""Stanford Dogs (Khosla et al., 2011): Images/n02085620-Chihuahua/n02085620_5927.jpg and so on.

train_list.mat, test_list.mat   file_list: paths below Images/; labels: 1 to 120
"""

from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing
from peft_vision.data.fgvc.matlab import labelled_paths, read_mat


def read(copy: Copy) -> Listing:
    """Classes are named by their folders."""
    copy.require("train_list.mat", "test_list.mat", "Images")
    files = {split: copy.folder / f"{split}_list.mat" for split in ("train", "test")}
    splits = {
        split: labelled_paths(file, *read_mat(file, "file_list", "labels"), folder="Images")
        for split, file in files.items()
    }
    names = {label: path.split("/")[1] for labels in splits.values() for path, label in labels.items()}
    return Listing(splits, names, tuple(files.values()))
