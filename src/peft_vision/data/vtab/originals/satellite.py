"""This module reads EuroSAT (Helber et al., 2019) and RESISC45 (Cheng et al., 2017): a folder per class, split by VTAB
into 60, 20, 20 %.

eurosat/2750/AnnualCrop/AnnualCrop_1.jpg    27,000 images of 10 classes, 64 px
NWPU-RESISC45/airplane/airplane_001.jpg     31,500 images of 45 classes, 256 px
"""

from pathlib import Path

from peft_vision.data.folders import read_folders, sub_folders
from peft_vision.data.vtab.order import chosen, percent, stored
from peft_vision.data.vtab.presence import home, require
from peft_vision.data.vtab.release import Release

_TRAIN, _VAL = 60, 80  # percent, the ends of the train and the validation part


def eurosat(root: Path) -> Release:
    """Read EuroSAT's RGB version, from the older or the newer archive."""
    folder = home(root, "eurosat/2750", "EuroSAT/2750", "2750", "EuroSAT_RGB", "eurosat/EuroSAT_RGB")
    if folder == root:
        site = "zenodo.org/records/7711810 (EuroSAT_RGB.zip); a run with data=eurosat fetches it to data.root"
        require(root, ["eurosat/2750"], what="EuroSAT", site=site)
    return _release(root, folder)


def resisc45(root: Path) -> Release:
    parent = home(root, "resisc45")
    site = "1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, linked in github.com/tensorflow/datasets (NWPU-RESISC45.rar)"
    require(parent, ["NWPU-RESISC45"], what="RESISC45", site=site)
    return _release(root, parent / "NWPU-RESISC45")


def _release(root: Path, folder: Path) -> Release:
    classes = [path.name for path in sub_folders(folder, key="data.root")]
    images = read_folders(root, folder, {name: label for label, name in enumerate(classes)}, key="data.root")
    files = [Path(path) for path in images.pictures.paths]
    images = stored(images, "train", [f"{file.parent.name}_{file.name}" for file in files])
    train, val, test = percent(images, 0, _TRAIN), percent(images, _TRAIN, _VAL), percent(images, _VAL, 100)
    return chosen(train, val, test, classes=classes, files=())
