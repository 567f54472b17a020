from pathlib import Path

import pytest
import torch

from ood_miniatures import class_folders, imagenet, shown
from peft_vision.core.config import ConfigError
from peft_vision.data.imagenet import synsets

PLACES = {wnid: place for place, wnid in enumerate(synsets("all"))}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return imagenet(tmp_path_factory.mktemp("sets") / "imagenet", PLACES)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Class folders without a picture."""
    for split in ("train", "val"):
        class_folders(tmp_path / split, PLACES, [])
    return tmp_path


def test_classes_are_the_sorted_wordnet_ids(make, published: Path):
    data = make("imagenet", path=str(published))
    data.check()
    sets = data.open()
    assert sets.classes == synsets("all")
    assert list(sets.classes) == sorted(sets.classes)
    assert len(sets.train) == 2000
    assert shown(sets.train) == sets.train.labels.tolist()


def test_the_test_part_is_val(make, published: Path):
    sets = make("imagenet", path=str(published)).open()
    assert sets.val is None
    assert shown(sets.test) == sets.test.labels.tolist() == list(range(1000))
    assert all(path.startswith("val/") for path in sets.test.pictures.paths)
    assert sets.remark == "tested on the official validation images"


def test_the_validation_part_is_drawn_from_train(make, published: Path):
    _, parts = make("imagenet", path=str(published), val_fraction=0.1)._divide()
    assert {split: len(part) for split, part in parts.items()} == {"train": 1800, "val": 200, "test": 1000}
    assert torch.bincount(parts["train"].labels).min() == 1
    assert all(parts["val"].pictures.paths[index].startswith("train/") for index in parts["val"].indices.tolist())


def test_a_run_may_use_few_of_the_images(make, published: Path, preprocessing):
    splits = make("imagenet", path=str(published), val_fraction=0, train_size=1000).load(preprocessing)
    assert splits.train.pixels.shape == (1000, 3, 16, 16)
    assert splits.source == (
        "imagenet: 1000 train + 1000 test images of 1000 classes; tested on the official validation images"
    )


def test_checking_lists_no_pictures(make, empty: Path):
    make("imagenet", path=str(empty)).check()


def test_the_path_may_begin_with_home(make, empty: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(empty.parent))
    make("imagenet", path=f"~/{empty.name}").check()


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_that_a_split_lacks_are_named_and_counted(make, empty: Path, split: str):
    gone = synsets("all")[5:9]
    for wnid in gone:
        (empty / split / wnid).rmdir()
    with pytest.raises(ConfigError) as error:
        make("imagenet", path=str(empty)).check()
    message = f"data.path: {empty}/{split} lacks 4 of 1,000 class folders: {', '.join(gone[:3])}, ...\n"
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 2


def test_folders_that_are_no_class_are_named(make, empty: Path):
    (empty / "val" / "n00000000").mkdir()
    message = f"^data.path: {empty}/val holds 1 folders beside its 1000 classes: n00000000\n"
    with pytest.raises(ConfigError, match=message):
        make("imagenet", path=str(empty)).check()


def test_a_folder_that_is_not_there_is_refused_with_where_it_comes_from(make, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        make("imagenet", path=str(tmp_path)).open()
    assert str(error.value).startswith(f"data.path: no folder {tmp_path}/train, which should hold 1,000 class ")
    assert "\nImageNet (ILSVRC2012, 138 + 6.3 GB" in str(error.value)
    assert "is at image-net.org; path is the folder that holds train/n01440764/*.JPEG and val/" in str(error.value)


def test_class_folders_without_a_picture_are_named(make, empty: Path):
    with pytest.raises(ConfigError, match=f"^data.path: no image in 1000 class folders of {empty}/train: n01440764, "):
        make("imagenet", path=str(empty)).open()
