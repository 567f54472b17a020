"""ImageNet's 1,000 classes, identified by their WordNet ids, or wnids (Russakovsky et al., 2015, arXiv:1409.0575).

path/train/n01440764/*.JPEG  path/val/n01440764/*.JPEG

Labels of its test images are not public, so runs are tested on val/, as usual. The lists of wnids are timm's:

all  the 1,000 of ILSVRC2012, in the order of their labels, which is that of the wnids
r    the 200 of them in ImageNet-R (Hendrycks et al., 2021, arXiv:2006.16241)
a    the 200 of them in ImageNet-A (Hendrycks et al., 2021, arXiv:1907.07174)
"""

from importlib.resources import files
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.base import Data
from peft_vision.data.folders import read_folders, require_folders
from peft_vision.data.reading import located
from peft_vision.data.splits import LabelledSets

_LISTS = {"all": "imagenet_synsets.txt", "r": "imagenet_r_synsets.txt", "a": "imagenet_a_synsets.txt"}
SOURCE = (
    "ImageNet (ILSVRC2012, 138 + 6.3 GB packed) is at image-net.org; path is the folder that holds "
    "train/n01440764/*.JPEG and val/n01440764/*.JPEG, val sorted into classes as train is"
)


def synsets(which: Literal["all", "r", "a"]) -> tuple[str, ...]:
    """Return the sorted wnids of one of the three sets."""
    return tuple((files("timm.data") / "_info" / _LISTS[which]).read_text(encoding="ascii").split())


@component
class ImageNet(Data):
    """ImageNet in the folder `path`, which holds train/ and val/."""

    path: Annotated[str, FILE]

    def check(self) -> None:
        """Check only that the folders exist, because listing 1.3 million pictures takes a while."""
        for split in ("train", "val"):
            require_folders(located(self.path) / split, synsets("all"), alone=True, key="data.path", source=SOURCE)

    def open(self) -> LabelledSets:
        """Return train/ and, as the test part, val/."""
        self.check()
        root, classes = located(self.path), synsets("all")
        labels = {wnid: label for label, wnid in enumerate(classes)}
        return LabelledSets(
            name="imagenet",
            train=read_folders(root, root / "train", labels, key="data.path"),
            val=None,
            test=read_folders(root, root / "val", labels, key="data.path"),
            classes=classes,
            remark="tested on the official validation images",
        )
