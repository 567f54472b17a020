from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.reading import home, require


def complaint(root: Path, *wanted: str) -> str:
    with pytest.raises(ConfigError) as error:
        require(root, wanted, what="parts of Cats-9", source="Cats-9 is at cats.example.org (3 GB)")
    return str(error.value)


def test_what_is_there_is_passed(tmp_path: Path):
    (tmp_path / "cats" / "images").mkdir(parents=True)
    (tmp_path / "cats" / "part-00001-of-00002").touch()
    require(tmp_path, ["cats", "cats/images", "cats/part-*"], what="parts of Cats-9", source="")


def test_what_is_missing_is_counted_and_named(tmp_path: Path):
    (tmp_path / "b").touch()
    assert complaint(tmp_path, "a", "b", "c/d", "e*", "f") == (
        f"data.root: {tmp_path} lacks 4 of 5 parts of Cats-9: a, c/d, e*, ...\nCats-9 is at cats.example.org (3 GB)"
    )


def test_an_archive_as_the_root_is_to_be_unpacked(tmp_path: Path):
    (tmp_path / "cats.zip").touch()
    assert complaint(tmp_path / "cats.zip", "a") == (
        f"data.root: {tmp_path}/cats.zip is a file; unpack it, and give the folder that holds data sets"
    )


def test_a_folder_that_is_not_there_is_said(tmp_path: Path):
    assert complaint(tmp_path / "none", "a") == (
        f"data.root: no folder {tmp_path}/none, which should hold 1 parts of Cats-9: a\n"
        "Cats-9 is at cats.example.org (3 GB)"
    )


@pytest.mark.parametrize(
    ("archive", "wanted"),
    [
        ("cats9.zip", "pictures"),
        ("Cats_9-v2.tar.gz", "pictures"),
        ("pictures.rar", "pictures"),
        ("train.zip.001", "train"),
        ("labels_x.h5.gz", "labels_x.h5"),
        ("cats/pictures.7z", "cats/pictures/black"),
    ],
)
def test_an_archive_in_its_place_is_to_be_unpacked(tmp_path: Path, archive: str, wanted: str):
    (tmp_path / archive).parent.mkdir(exist_ok=True)
    (tmp_path / archive).touch()
    (tmp_path / "dogs.zip").touch()
    assert complaint(tmp_path, wanted).endswith(f"\nunpack {tmp_path / archive}, if that is it, to {tmp_path / wanted}")


def test_other_archives_are_passed_over(tmp_path: Path):
    (tmp_path / "dogs.zip").touch()
    assert complaint(tmp_path, "pictures").endswith("Cats-9 is at cats.example.org (3 GB)")


def test_a_data_set_is_at_home_in_its_own_folder_or_in_the_root(tmp_path: Path):
    assert home(tmp_path, "cats", "Cats") == tmp_path
    (tmp_path / "Cats" / "2750").mkdir(parents=True)
    assert home(tmp_path, "cats", "Cats") == tmp_path / "Cats"
    assert home(tmp_path, "cats/2750", "Cats/2750") == tmp_path / "Cats" / "2750"
