"""Oxford Flowers (Nilsback & Zisserman, 2008): jpg/image_00001.jpg and so on.

imagelabels.mat   labels: of each image in turn, 1 to 102
setid.mat         trnid, valid, tstid: the numbers of the images of each split
"""

from torchvision.datasets import Flowers102

from peft_vision.config import ConfigError
from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing
from peft_vision.data.fgvc.matlab import named, read_mat

_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}


def read(copy: Copy) -> Listing:
    """Classes are named as by torchvision."""
    copy.require("imagelabels.mat", "setid.mat", "jpg")
    labels_file, splits_file = copy.folder / "imagelabels.mat", copy.folder / "setid.mat"
    (labels,) = read_mat(labels_file, "labels")
    splits = {}
    for split, numbers in zip(_SPLITS, read_mat(splits_file, *_SPLITS.values()), strict=True):
        if strange := [number for number in numbers.tolist() if not 1 <= number <= len(labels)]:
            raise ConfigError(
                f"data.root: {splits_file} names the image {strange[0]}, {labels_file} has {len(labels)} labels; "
                "fetch both again"
            )
        splits[split] = {f"jpg/image_{number:05d}.jpg": int(labels[number - 1]) for number in numbers.tolist()}
    occurring = [label for its in splits.values() for label in its.values()]
    return Listing(splits, named(labels_file, occurring, Flowers102.classes), (labels_file, splits_file))
