"""Processed copies of VTAB-1k that are not whole are refused with words."""

import shutil
from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from vtab_miniatures import processed, relist


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Holds a miniature of KITTI."""
    processed(tmp_path / "vtab-1k" / "kitti", "kitti")
    return tmp_path


def nothing(root: Path) -> str:
    shutil.rmtree(root / "vtab-1k")
    return f"data.root: {root} lacks 4 of 4 parts of VTAB-1k's KITTI/distance: vtab-1k/kitti/train800.txt"


def an_archive(root: Path) -> str:
    shutil.rmtree(root / "vtab-1k")
    (root / "vtab-1k.zip").write_bytes(b"PK")
    return f"\nunpack {root}/vtab-1k.zip"


def an_archive_of_the_task(root: Path) -> str:
    shutil.rmtree(root / "vtab-1k" / "kitti")
    (root / "vtab-1k" / "kitti.tar.gz").write_bytes(b"")
    return f"\nunpack {root}/vtab-1k/kitti.tar.gz"


def no_test_list(root: Path) -> str:
    (root / "vtab-1k" / "kitti" / "test.txt").unlink()
    return f"data.root: {root} lacks 1 of 4 parts of VTAB-1k's KITTI/distance: vtab-1k/kitti/test.txt\n"


def no_images(root: Path) -> str:
    shutil.rmtree(root / "vtab-1k" / "kitti" / "images")
    return f"data.root: {root} lacks 1 of 4 parts of VTAB-1k's KITTI/distance: vtab-1k/kitti/images\n"


def half_unpacked(root: Path) -> str:
    for number in (1, 2):
        (root / "vtab-1k" / "kitti" / "images" / "test" / f"{number:06d}.png").unlink()
    missing = "images/test/000001.png, images/test/000002.png"
    return f"data.root: {root}/vtab-1k/kitti lacks 2 of 3 images of test.txt: {missing}\nunpack it anew"


def no_folder_of_a_split(root: Path) -> str:
    shutil.rmtree(root / "vtab-1k" / "kitti" / "images" / "val200")
    return f"data.root: {root}/vtab-1k/kitti lacks 2 of 2 images of val200.txt: images/val200/000000.png"


def no_label(root: Path) -> str:
    file = relist(root, "val200.txt", lambda lines: [lines[0], "images/val200/000001.png"])
    return f"data.root: {file} line 2 is 'images/val200/000001.png', should be 'images/SPLIT/FILE LABEL'"


def a_label_that_is_no_number(root: Path) -> str:
    file = relist(root, "val200.txt", lambda lines: ["images/val200/000000.png -1"])
    return f"{file} line 1 is 'images/val200/000000.png -1', should be"


def out_of_the_folder(root: Path) -> str:
    file = relist(root, "val200.txt", lambda lines: ["../../elsewhere.png 1"])
    return f"{file} line 1 is '../../elsewhere.png 1', should be"


def a_label_too_high(root: Path) -> str:
    file = relist(root, "train800.txt", lambda lines: [*lines[:3], "images/train800/000003.png 4"])
    return f"data.root: {file} line 4 has label 4; KITTI/distance has 4 classes, 0 to 3"


def one_image_twice(root: Path) -> str:
    file = relist(root, "train800.txt", lambda lines: [*lines, lines[1]])
    return f"data.root: {file} line 5 names images/train800/000001.png a second time"


def one_image_of_two_splits(root: Path) -> str:
    file = relist(root, "test.txt", lambda lines: [*lines, "images/train800/000002.png 1"])
    return f"train800.txt and test.txt of {file.parent} both name 1 images: images/train800/000002.png"


def parts_that_do_not_make_the_whole(root: Path) -> str:
    file = relist(root, "train800val200.txt", lambda lines: lines[:-1])
    return f"data.root: {file} has 5 images; its labels are not those of train800.txt (4) and val200.txt (2) together"


def an_empty_list(root: Path) -> str:
    file = root / "vtab-1k" / "kitti" / "train800.txt"
    file.write_text("\n")
    return f"data.root: {file} is empty; unpack it anew"


def no_text(root: Path) -> str:
    file = root / "vtab-1k" / "kitti" / "train800.txt"
    file.write_bytes(b"\xff\xfe\x00")
    return f"data.root: cannot read {file}"


@pytest.mark.parametrize(
    "spoil",
    [
        nothing,
        an_archive,
        an_archive_of_the_task,
        no_test_list,
        no_images,
        half_unpacked,
        no_folder_of_a_split,
        no_label,
        a_label_that_is_no_number,
        out_of_the_folder,
        a_label_too_high,
        one_image_twice,
        one_image_of_two_splits,
        parts_that_do_not_make_the_whole,
        an_empty_list,
        no_text,
    ],
)
def test_a_copy_that_is_not_whole_is_refused(make, root: Path, spoil):
    complaint = spoil(root)
    with pytest.raises(ConfigError) as error:
        make("vtab/kitti", root=str(root), miniature=True).check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2
