"""Every file of every source of VTAB, broken in ten ways: one line names it, or it was of no consequence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damaged import complaints, summary
from miniatures import Picture
from peft_vision.data.base import Data
from peft_vision.data.vtab import tfds as prepared_reader
from peft_vision.data.vtab.raw.table import READERS
from vtab_miniatures import labels, parquet, prepared, processed
from vtab_originals_miniatures import WRITERS, dsprites_arrays

pytestmark = pytest.mark.usefixtures("any_checksum")

FILES = {
    "cifar100": ("cifar-100-python/*",),
    "dtd": ("dtd/dtd/labels/*",),
    "flowers102": ("flowers-102/*.mat",),
    "pets": ("oxford-iiit-pet/annotations/*.txt",),
    "svhn": ("*.mat",),
    "sun397": ("*.txt", "SUN397/ClassName.txt"),
    "camelyon": ("pcam/*.h5",),
    "retinopathy": ("diabetic_retinopathy/*.csv",),
    "clevr_count": ("CLEVR_v1.0/scenes/*.json",),
    "clevr_distance": ("CLEVR_v1.0/scenes/*train*.json",),
    "dmlab": ("dmlab/*",),
    "kitti": ("kitti/mapping/*", "kitti/training/label_2/000001.txt"),
    "dsprites_location": ("*.npz",),
    "smallnorb_azimuth": ("smallnorb/*",),
}
"""Those that say what is what, or hold pictures, by a task of each reader; in the others every file is a picture."""
UNNOTICED = {
    ("truncated", "dmlab-validation.tfrecord-00000-of-00001"),  # between two records: the benchmark's numbers tell
    ("other_shape", "label.labels.txt"),  # a class may have any name
    *(("unreadable", f"{split}-00000-of-00001.parquet") for split in ("train", "val", "test")),  # told as missing
}


@pytest.mark.parametrize("task", FILES)
def test_a_damaged_file_of_an_original_is_named(task: str, tmp_path: Path, picture: Picture):
    root = tmp_path / "datasets"
    WRITERS[task](root, picture)
    if task == "dsprites_location":  # without its objects, which a damage would have to unpickle
        images, classes = dsprites_arrays()
        np.savez(next(root.glob("*.npz")), imgs=images, latents_classes=classes)

    def read() -> list[Any]:
        release = READERS[task](root)
        return summary(release.classes, release.train, release.val, release.test)

    files = sorted(file for pattern in FILES[task] for file in root.glob(pattern))
    assert files
    assert complaints(read, files, unnoticed=UNNOTICED) == ""


@pytest.fixture
def opened(make: Callable[..., Data], tmp_path: Path) -> Callable[..., list[Any]]:
    """What a task tells that is read from `tmp_path`."""

    def told(task: str, **values: object) -> list[Any]:
        sets = make(f"vtab/{task}", root=str(tmp_path), miniature=True, **values).open()
        return summary(sets.classes, sets.train, sets.val, sets.test)

    return told


def test_a_damaged_list_of_a_processed_copy_is_named(opened, tmp_path: Path):
    folder = processed(tmp_path / "kitti", "kitti")
    assert complaints(lambda: opened("kitti"), sorted(folder.glob("*.txt"))) == ""


@pytest.mark.parametrize("task", ["kitti", "cifar100"])
def test_a_damaged_file_that_tensorflow_datasets_prepared_is_named(opened, task: str, tmp_path: Path):
    folder = tmp_path / task / "3.0.0"
    prepared(folder, task, task, {"train": (3, 2), "validation": (2,), "test": (2,)})
    if task == "cifar100":
        (folder / "label.labels.txt").write_text("".join(f"thing {label}\n" for label in range(100)))

    def read() -> list[Any]:
        prepared_reader._records.cache_clear()
        return opened(task, source="tfds")

    files = [file for file in folder.iterdir() if task == "kitti" or "validation" not in file.name]  # which has none
    assert complaints(read, sorted(files), unnoticed=UNNOTICED) == ""


def test_a_damaged_parquet_file_is_named(opened, tmp_path: Path):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        parquet(tmp_path / "kitti" / f"{split}-00000-of-00001.parquet", labels("kitti", count))
    stored = {"hub": None, "subset": None, "image": "image", "label": "label"}
    stored |= {"train": "train", "val": "val", "test": "test"}
    files = sorted(tmp_path.glob("*/*"))
    assert complaints(lambda: opened("kitti", source="parquet", parquet=stored), files, unnoticed=UNNOTICED) == ""


def test_a_damaged_index_file_is_named(opened, tmp_path: Path, vtab_original):
    file = tmp_path / "list.txt"
    file.write_text("train800 0\ntrain800 3\nval200 1\n# the last\nval200 2\n")
    for split, count in (("train", 6), ("test", 3)):
        parquet(tmp_path / "kitti" / f"{split}-00000-of-00001.parquet", labels("kitti", count))
    stored = {"hub": None, "subset": None, "image": "image", "label": "label"}
    stored |= {"train": "train", "val": None, "test": "test"}
    assert complaints(lambda: opened("kitti", source="parquet", parquet=stored, index_file=str(file)), [file]) == ""
