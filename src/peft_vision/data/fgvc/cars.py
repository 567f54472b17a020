"""This module reads Stanford Cars (Krause et al., 2013) in torchvision's layout: cars_train/00001.jpg,
cars_test/00001.jpg and so on.

devkit/cars_train_annos.mat          annotations: fname and class, 1 to 196, of each training image
cars_test_annos_withlabels.mat       the same for the test images; the file in the devkit has no labels and is not used
devkit/cars_meta.mat                 class_names
"""

from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing
from peft_vision.data.fgvc.tables import labelled_paths, named
from peft_vision.data.matlab import read_mat, texts

_TEST_LABELS = "cars_test_annos_withlabels.mat"


def read(copy: Copy) -> Listing:
    """Return the listing; the labels of the test images may also lie in the devkit."""
    inside = (copy.folder / "devkit" / _TEST_LABELS).is_file()
    test = f"devkit/{_TEST_LABELS}" if inside else _TEST_LABELS
    copy.require("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", test, "cars_train", "cars_test")
    meta = copy.folder / "devkit" / "cars_meta.mat"
    (titles,) = read_mat(meta, "class_names")
    files = {"train": copy.folder / "devkit" / "cars_train_annos.mat", "test": copy.folder / test}
    splits = {split: _labels(file, f"cars_{split}") for split, file in files.items()}
    names: dict[int, str] = {}
    for split, file in files.items():
        names |= named(file, splits[split].values(), texts(meta, titles, what="class_names"), of=meta.name)
    return Listing(splits, names, (*files.values(), meta))


def _labels(file: Path, folder: str) -> dict[str, int]:
    (table,) = read_mat(file, "annotations")
    if table.ndim != 1 or not {"fname", "class"} <= set(table.dtype.names or ()):
        raise ConfigError(f"data.root: the annotations in {file} have no fname and class; it is not the published file")
    return labelled_paths(file, table["fname"], table["class"], folder=folder)
