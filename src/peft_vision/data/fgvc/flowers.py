"""This module reads Oxford Flowers (Nilsback & Zisserman, 2008): jpg/image_00001.jpg and so on.

imagelabels.mat   labels: the label, 1 to 102, of each image in turn
setid.mat         trnid, valid, tstid: the numbers of the images of each split
"""

from torchvision.datasets import Flowers102

from peft_vision.core.config import ConfigError
from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing
from peft_vision.data.fgvc.tables import named, numbers
from peft_vision.data.matlab import read_mat
from peft_vision.data.reading import refuse_repeated

_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}


def read(copy: Copy) -> Listing:
    """Return the listing; classes are named as in torchvision."""
    copy.require("imagelabels.mat", "setid.mat", "jpg")
    labels_file, splits_file = copy.folder / "imagelabels.mat", copy.folder / "setid.mat"
    labels = numbers(labels_file, *read_mat(labels_file, "labels"), what="labels").tolist()
    splits = {}
    for (split, name), values in zip(_SPLITS.items(), read_mat(splits_file, *_SPLITS.values()), strict=True):
        images = numbers(splits_file, values, what=name).tolist()
        refuse_repeated(images, splits_file)
        if strange := [number for number in images if number > len(labels)]:
            raise ConfigError(
                f"data.root: {splits_file} names the image {strange[0]}, {labels_file} has {len(labels)} labels; "
                "fetch both again"
            )
        splits[split] = {f"jpg/image_{number:05d}.jpg": labels[number - 1] for number in images}
    occurring = [label for labels_by_path in splits.values() for label in labels_by_path.values()]
    return Listing(
        splits, named(labels_file, occurring, Flowers102.classes, of="the data set"), (labels_file, splits_file)
    )
