from pathlib import Path

import pytest

from ood_miniatures import class_folders, shown
from peft_vision.core.config import ConfigError
from peft_vision.ood.match import matched
from shift_miniatures import make_ood

RUN = ("bird", "cat", "dog")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", {"dog": 2, "cat": 1, "bird": 0}, ["1.png", "2.JPG"])


def test_a_folder_of_classes_is_one_shift_by_name(photos: Path):
    ood = make_ood("image_folder", path=str(photos))
    ood.check()
    (name, shift) = next(iter(ood.open().items()))
    found = matched(shift, ood, ("dog", "elk", "bird", "cat"), where="ood.image_folder")
    assert name == ""
    assert found.labelled.labels.tolist() == [2, 2, 3, 3, 0, 0]
    assert shown(found.labelled) == [0, 0, 1, 1, 2, 2]
    assert found.missing == ("elk",)


def test_pictures_lie_at_any_depth_and_other_files_are_passed_over(photos: Path):
    class_folders(photos / "cat", {"deep": 1}, ["3.webp"])
    class_folders(photos, {".cache": 9, "__MACOSX": 9, "@eaDir": 9}, ["4.png"])
    class_folders(photos / "dog" / "deep", {".ipynb_checkpoints": 9, "__MACOSX": 9}, ["4.png", "._5.png"])
    (photos / "README.txt").write_text("no class")
    (photos / "dog" / "notes.txt").write_text("no picture")
    shift = make_ood("image_folder", path=str(photos)).open()[""]
    assert shift.classes == RUN
    assert shown(shift.labelled) == shift.labelled.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_several_folders_are_several_shifts(tmp_path: Path):
    paths = {}
    for name, places in {"art": {"cat": 1, "dog": 2}, "sketch": {"bird": 0, "dog": 2}}.items():
        paths[name] = str(class_folders(tmp_path / name, places, ["1.png"]))
    ood = make_ood("image_folder", path=paths)
    ood.check()
    found = {name: matched(shift, ood, RUN, where=f"ood.image_folder.{name}") for name, shift in ood.open().items()}
    assert {name: shown(match.labelled) for name, match in found.items()} == {"art": [1, 2], "sketch": [0, 2]}
    assert {name: match.labelled.labels.tolist() for name, match in found.items()} == {"art": [1, 2], "sketch": [0, 2]}
    assert {name: match.missing for name, match in found.items()} == {"art": ("bird",), "sketch": ("cat",)}


def test_the_path_may_begin_with_home(photos: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    make_ood("image_folder", path="~/photos").check()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=f"^path: no folder {tmp_path}/photos$"):
        make_ood("image_folder", path=str(tmp_path / "photos")).check()


def test_one_of_several_folders_is_named_by_its_key(photos: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"^path.art: no folder {tmp_path}/art$"):
        make_ood("image_folder", path={"own": str(photos), "art": str(tmp_path / "art")}).check()


def test_loose_pictures_are_no_classes(photos: Path):
    with pytest.raises(ConfigError, match=f"^path: no class folders in {photos}/cat; each class is a folder"):
        make_ood("image_folder", path=str(photos / "cat")).check()


@pytest.mark.parametrize("splits", [("train", "test"), ("test", "train", "val"), ("val",), ("Train", "test", "valid")])
def test_a_folder_divided_into_train_and_test_is_no_folder_of_classes(tmp_path: Path, splits: tuple[str, ...]):
    for split in splits:
        class_folders(tmp_path / "photos" / split, {"cat": 1, "dog": 2}, ["1.png"])
    with pytest.raises(ConfigError) as error:
        make_ood("image_folder", path=str(tmp_path / "photos")).check()
    assert f"path: {tmp_path}/photos is divided into {', '.join(sorted(splits))}; give one of them" in str(error.value)
    make_ood("image_folder", path=str(tmp_path / "photos" / splits[0])).check()


def test_classes_may_be_called_as_splits(tmp_path: Path):
    class_folders(tmp_path / "photos", {"test": 1, "train": 2}, ["1.png"])
    component = make_ood("image_folder", path=str(tmp_path / "photos"))
    component.check()
    (shift,) = component.open().values()
    assert shift.classes == ("test", "train")


def test_a_class_folder_without_a_picture_is_named(photos: Path):
    (photos / "elk").mkdir()
    with pytest.raises(ConfigError, match=f"^path: no image in class folder {photos}/elk$"):
        make_ood("image_folder", path=str(photos)).open()
