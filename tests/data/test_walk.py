"""What counts as data in a folder: never what programs and archives leave, and no folder twice."""

import os
from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.folders import class_files, files_below, image_files, left_behind, sub_folders

LEFT_BEHIND = (
    *(".ipynb_checkpoints", "__MACOSX", ".git", ".cache", "@eaDir", "lost+found", "$RECYCLE.BIN"),
    *("System Volume Information", "#recycle", "__pycache__"),
)
FILES = ("._x.jpg", ".x.jpg", "Thumbs.db", ".DS_Store", "desktop.ini")


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("name", LEFT_BEHIND)
@pytest.mark.parametrize("depth", ["", "a", "a/b"])
def test_what_is_left_behind_is_no_data_at_any_depth(name: str, depth: str, tmp_path: Path):
    put(tmp_path / "a" / "b" / "1.jpg", tmp_path / depth / name / "2.jpg", tmp_path / depth / name / "c" / "3.jpg")
    assert image_files(tmp_path, tmp_path, key="k") == ["a/b/1.jpg"]
    assert [path.name for path in sub_folders(tmp_path, key="k")] == ["a"]


def test_files_that_are_left_behind_are_no_data(tmp_path: Path):
    put(*(tmp_path / "a" / name for name in (*FILES, "x.jpg")))
    assert files_below(tmp_path, tmp_path, ("",), key="k") == ["a/x.jpg"]
    assert all(left_behind(name) for name in FILES)


def test_the_folder_itself_may_be_hidden(tmp_path: Path):
    put(tmp_path / ".cache" / "a" / "1.JPG")
    assert image_files(tmp_path / ".cache", tmp_path, key="k") == [".cache/a/1.JPG"]


def test_names_are_sorted_whatever_the_order_of_links(tmp_path: Path):
    put(*(tmp_path / "a" / name for name in ("z/1.jpg", "b.jpg", "b/1.png", "A.webp", "notes.txt")))
    assert image_files(tmp_path / "a", tmp_path, key="k") == ["a/A.webp", "a/b.jpg", "a/b/1.png", "a/z/1.jpg"]


def linked_to_each_other(root: Path) -> None:
    (root / "cat" / "more").symlink_to(root / "dog")
    (root / "dog" / "more").symlink_to(root / "cat")


def linked_to_itself(root: Path) -> None:
    (root / "cat" / "self").symlink_to(".")
    (root / "cat" / "up").symlink_to("..")
    (root / "cat" / "root").symlink_to("/")


def linked_in_a_circle(root: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (root / "cat" / one).symlink_to(other)
        (root / "cat" / f"{one}.jpg.d").symlink_to(f"{other}.jpg.d")


def linked_within(root: Path) -> None:
    (root / "cat" / "aaa").symlink_to("deep")  # sorted before it, and yet not its name


def many_links(root: Path) -> None:
    outside = root.parent / "outside"
    for number in range(12):
        (outside / f"{number}").mkdir(parents=True)
    for one in outside.iterdir():
        for other in outside.iterdir():
            (one / f"to{other.name}").symlink_to(other)
    (root / "cat" / "all").symlink_to(outside)


@pytest.mark.parametrize(
    "link", [linked_to_each_other, linked_to_itself, linked_in_a_circle, linked_within, many_links]
)
def test_links_in_a_circle_come_to_an_end_and_no_picture_counts_twice(link, tmp_path: Path):
    root = tmp_path / "pictures"
    put(root / "cat" / "1.jpg", root / "cat" / "deep" / "2.jpg", root / "dog" / "3.jpg")
    link(root)
    cats, dogs = class_files(sub_folders(root, key="k"), root, key="k")
    assert (cats, dogs) == (["cat/1.jpg", "cat/deep/2.jpg"], ["dog/3.jpg"])
    assert sorted(image_files(root, root, key="k")) == [*cats, *dogs]


def test_a_link_to_pictures_elsewhere_is_followed(tmp_path: Path):
    put(tmp_path / "disk" / "old" / "1.jpg", tmp_path / "disk" / "2.jpg")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "b").symlink_to(tmp_path / "disk")
    (tmp_path / "cat" / "a").symlink_to(tmp_path / "disk" / "old")  # entered first, and by one name only
    assert image_files(tmp_path / "cat", tmp_path, key="k") == ["cat/a/1.jpg", "cat/b/2.jpg"]


def test_names_that_are_no_utf_8_are_found(tmp_path: Path):
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT | os.O_WRONLY))
    assert image_files(tmp_path, tmp_path, key="k") == ["caf\udce9.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path):
    for walk in (sub_folders, lambda folder, key: image_files(folder, folder, key=key)):
        with pytest.raises(ConfigError, match=f"^data.path: cannot list folder {tmp_path}/no "):
            walk(tmp_path / "no", key="data.path")
