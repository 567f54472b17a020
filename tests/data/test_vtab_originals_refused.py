"""Copies of natural and specialized tasks that are not as they were published, and what the user is told."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.vtab.raw.table import READERS


@pytest.mark.parametrize("task", sorted(READERS))
def test_a_missing_data_set_is_told_with_its_files_and_where_it_is(tmp_path: Path, task: str):
    with pytest.raises(ConfigError) as error:
        READERS[task](tmp_path)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"data.root: {tmp_path} lacks ")
    assert " is at " in second
    assert "." in second.split(" is at ")[1]


def test_a_message_tells_the_size_that_the_page_tells(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs" / "vtab_originals.md").read_text()
    told = {}
    for task in sorted(READERS):
        with pytest.raises(ConfigError) as error:
            READERS[task](tmp_path)
        told[task] = re.findall(r"[\d.]+ [GM]B", str(error.value))
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    assert sum(map(len, told.values())) > 4
    for task, sizes in told.items():
        row = next(line for line in lines if f"`{task}`" in line.split("|")[1])
        assert [size for size in sizes if size not in row] == []


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cifar_torn(root: Path) -> str:
    (root / "cifar-100-python" / "train").unlink()
    remedy = "remove cifar-100-python there and fetch it again, by a run with data=cifar100"
    return f"{root}/cifar-100-python/train (No such file or directory), should be the published file\n{remedy}"


def sun_list_missing(root: Path) -> str:
    (root / "sun397_tfds_va.txt").unlink()
    return f"data.root: {root} holds sun397_tfds_tr.txt, but no sun397_tfds_va.txt\nall three are in"


def sun_image_missing(root: Path) -> str:
    (root / "SUN397" / "a" / "abbey" / "sun_f.jpg").unlink()
    return f"data.root: {root}/SUN397 lacks 1 of 2 images of sun397_tfds_te.txt: a/abbey/sun_f.jpg\n"


def sun_class_unknown(root: Path) -> str:
    replaced(root / "SUN397" / "ClassName.txt", "/c/church/indoor\n", "")
    return "/c/church/indoor/sun_e.jpg is of none of the 2 classes of"


def sun_class_elsewhere(root: Path) -> str:
    replaced(root / "SUN397" / "ClassName.txt", "/c/church/indoor", "/../../etc")
    return f"data.root: {root}/SUN397/ClassName.txt names '/../../etc', should be such as /a/abbey"


def sun_class_twice(root: Path) -> str:
    replaced(root / "SUN397" / "ClassName.txt", "/c/church/indoor", "/a/abbey")
    return f"data.root: {root}/SUN397/ClassName.txt names /a/abbey a second time"


def sun_image_twice(root: Path) -> str:
    file = root / "sun397_tfds_va.txt"
    file.write_text(file.read_text() * 2)
    return f"data.root: {file} names /a/abbey/sun_d.jpg a second time"


def camelyon_packed(root: Path) -> str:
    file = root / "pcam" / "camelyonpatch_level_2_split_test_x.h5"
    file.rename(f"{file}.gz")
    return f"data.root: {root}/pcam lacks 1 of 6 parts of Patch Camelyon: {file.name}\nunpack {file}.gz"


def camelyon_no_hdf5(root: Path) -> str:
    file = root / "pcam" / "camelyonpatch_level_2_split_train_x.h5"
    file.write_bytes(b"no HDF5")
    return f"data.root: cannot read {file} ("


def camelyon_label_missing(root: Path) -> str:
    with h5py.File(root / "pcam" / "camelyonpatch_level_2_split_valid_y.h5", "w") as file:
        file["y"] = np.zeros((1, 1, 1, 1), np.uint8)
    return "_valid_x.h5 holds 2 images, "


def camelyon_other_labels(root: Path) -> str:
    with h5py.File(root / "pcam" / "camelyonpatch_level_2_split_valid_y.h5", "w") as file:
        file["y"] = np.array([0, 7], np.uint8).reshape(2, 1, 1, 1)
    return "_valid_y.h5 holds labels 0 to 7, should be 0 to 1"


def camelyon_other_images(root: Path) -> str:
    with h5py.File(root / "pcam" / "camelyonpatch_level_2_split_valid_x.h5", "w") as file:
        file["x"] = np.zeros((2, 96, 96), np.uint8)
    return "_valid_x.h5 holds x of (2, 96, 96) uint8, should hold (n, 96, 96, 3) uint8"


def eurosat_empty_class(root: Path) -> str:
    shutil.rmtree(root / "eurosat" / "2750" / "Land3")
    (root / "eurosat" / "2750" / "Land3").mkdir()
    return f"data.root: no image in 1 class folders of {root}/eurosat/2750: Land3"


def resisc45_packed(root: Path) -> str:
    shutil.rmtree(root / "NWPU-RESISC45")
    (root / "NWPU-RESISC45.rar").write_bytes(b"Rar!")
    return f"\nunpack {root}/NWPU-RESISC45.rar, if that is it, to {root}/NWPU-RESISC45"


def retinopathy_image_missing(root: Path) -> str:
    (root / "diabetic_retinopathy" / "test" / "2_left.jpeg").unlink()
    return "test lacks 1 of 3 images of retinopathy_solution.csv: 2_left.jpeg\nunpack all parts"


def retinopathy_column_missing(root: Path) -> str:
    replaced(root / "diabetic_retinopathy" / "retinopathy_solution.csv", "Usage", "usage")
    return "retinopathy_solution.csv (KeyError: 'Usage'), should be a table with columns image, level, Usage"


def retinopathy_row_missing(root: Path) -> str:
    replaced(root / "diabetic_retinopathy" / "trainLabels.csv", "13_left,2\n", "")
    return "trainLabels.csv has no row for 1 of the images in "


def retinopathy_row_twice(root: Path) -> str:
    replaced(root / "diabetic_retinopathy" / "trainLabels.csv", "13_left,2\n", "13_left,2\n13_left,3\n")
    return "trainLabels.csv names 13_left a second time"


def retinopathy_without_rows(root: Path) -> str:
    file = root / "diabetic_retinopathy" / "trainLabels.csv"
    file.write_text("image,level\n")
    return f"data.root: {file} has no row, should be a table with columns image, level; fetch it again"


def retinopathy_other_level(root: Path) -> str:
    replaced(root / "diabetic_retinopathy" / "trainLabels.csv", "13_left,2", "13_left,5")
    return "trainLabels.csv gives image 13_left level '5', should be 0 to 4"


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        ("cifar100", cifar_torn),
        ("sun397", sun_list_missing),
        ("sun397", sun_image_missing),
        ("sun397", sun_class_unknown),
        ("sun397", sun_class_elsewhere),
        ("sun397", sun_class_twice),
        ("sun397", sun_image_twice),
        ("camelyon", camelyon_packed),
        ("camelyon", camelyon_no_hdf5),
        ("camelyon", camelyon_label_missing),
        ("camelyon", camelyon_other_labels),
        ("camelyon", camelyon_other_images),
        ("eurosat", eurosat_empty_class),
        ("resisc45", resisc45_packed),
        ("retinopathy", retinopathy_image_missing),
        ("retinopathy", retinopathy_column_missing),
        ("retinopathy", retinopathy_other_level),
        ("retinopathy", retinopathy_row_missing),
        ("retinopathy", retinopathy_row_twice),
        ("retinopathy", retinopathy_without_rows),
    ],
)
def test_a_copy_that_is_not_as_published_is_refused(refused_original, task: str, spoil: Callable[[Path], str]):
    complaint, said = refused_original(task, spoil)
    assert complaint in said
    assert len(said.splitlines()) <= 2


def test_camelyon_without_h5py_says_what_to_install(vtab_original, monkeypatch):
    root = vtab_original("camelyon")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'peft-vision\[data\]'"):
        READERS["camelyon"](root)
