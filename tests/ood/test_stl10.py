from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import STL10 as PublishedReader

from ood_miniatures import CIFAR10, STL10, shown, stl10
from peft_vision.core.config import ConfigError
from peft_vision.ood.match import matched
from shift_miniatures import make_ood

INDICES = [0, 2, 1, 3, 4, 5, 7, -1, 8, 9]  # CIFAR-10's of STL-10's, as in LP-FT; it has no monkey
LABELS = [9, 7, 2, 0, 1, 3, 4, 5, 6, 8, 7, 2]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return stl10(tmp_path / "stl10_binary", LABELS)


def test_a_picture_lands_on_its_class_in_cifar10(published: Path):
    ood = make_ood("stl10", path=str(published))
    ood.check()
    found = matched(ood.open()[""], ood, CIFAR10, where="ood.stl10")
    assert [INDICES[place] for place in shown(found.labelled)] == found.labelled.labels.tolist()
    assert shown(found.labelled) == [label for label in LABELS if STL10[label] != "monkey"]


def test_monkeys_are_left_out_and_frogs_can_be_predicted(published: Path):
    ood = make_ood("stl10", path=str(published))
    found = matched(ood.open()[""], ood, CIFAR10, where="ood.stl10")
    assert found.dropped == ("monkey",)
    assert found.missing == ("frog",)
    assert found.predictable.all()
    assert str(found) == "10 images; without 1 of the classes ('frog'); left out: 'monkey', unknown to the run"


def test_frogs_can_be_masked(published: Path):
    ood = make_ood("stl10", path=str(published), missing="mask")
    found = matched(ood.open()[""], ood, CIFAR10, where="ood.stl10")
    assert [CIFAR10[index] for index, may in enumerate(found.predictable.tolist()) if not may] == ["frog"]


def test_monkeys_can_be_refused(published: Path):
    ood = make_ood("stl10", path=str(published), extra="error")
    with pytest.raises(ConfigError, match=r"ood.stl10: 1 of its classes are unknown to the run: 'monkey'\n"):
        matched(ood.open()[""], ood, CIFAR10, where="ood.stl10")


def test_pictures_stand_upright_as_torchvision_reads_them(published: Path, monkeypatch):
    for name in ("train_X.bin", "train_y.bin", "unlabeled_X.bin"):
        (published / name).write_bytes(b"")
    monkeypatch.setattr("torchvision.datasets.stl10.check_integrity", lambda path, md5=None: Path(path).is_file())
    expected = PublishedReader(root=str(published.parent), split="test")
    shift = make_ood("stl10", path=str(published)).open()[""]
    assert len(shift.labelled) == len(expected) == len(LABELS)
    for index, (image, label) in enumerate(expected):
        assert shift.labelled.pictures.read(index).tobytes() == image.tobytes()
        assert shift.labelled.labels[index] == label
        assert image.getpixel((90, 3)) == (255, 255, 255)  # column, row


def test_only_the_test_files_are_needed_and_mapped_rather_than_read(published: Path):
    assert {path.name for path in published.iterdir()} == {"test_X.bin", "test_y.bin", "class_names.txt"}
    assert isinstance(make_ood("stl10", path=str(published)).open()[""].labelled.pictures.images, np.memmap)


@pytest.mark.parametrize("name", ["test_X.bin", "test_y.bin", "class_names.txt"])
def test_a_file_that_is_not_there_is_refused_with_where_it_comes_from(published: Path, name: str):
    (published / name).unlink()
    with pytest.raises(ConfigError) as error:
        make_ood("stl10", path=str(published)).check()
    assert str(error.value).startswith(f"path: {published} lacks 1 of 3 parts of STL-10: {name}\n")
    assert "cs.stanford.edu/~acoates/stl10, stl10_binary.tar.gz (2.6 GB)" in str(error.value)


@pytest.mark.parametrize("left", [0, 1, 27648 * 3 + 5])
def test_pictures_that_are_cut_short_are_refused(published: Path, left: int):
    path = published / "test_X.bin"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ConfigError, match=f"^path: {path} has {left} bytes, should be 27648 an image; it is cut short"):
        make_ood("stl10", path=str(published)).open()


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([1] * 11, "has 11 labels, should be 12, one for each of test_X.bin"),
        ([*[1] * 11, 0], "holds labels 0 to 1, should be 1 to 10"),
        ([*[1] * 11, 11], "holds labels 1 to 11, should be 1 to 10"),
    ],
)
def test_labels_that_do_not_fit_are_refused(published: Path, labels: list[int], complaint: str):
    (published / "test_y.bin").write_bytes(bytes(labels))
    with pytest.raises(ConfigError, match=f"^path: {published}/test_y.bin {complaint}"):
        make_ood("stl10", path=str(published)).open()


def test_classes_of_other_names_or_in_another_order_are_refused(published: Path):
    names = (published / "class_names.txt").read_text().split()
    (published / "class_names.txt").write_text("\n".join([*names[:3], "dog", "deer", "cat", *names[6:]]))
    with pytest.raises(
        ConfigError, match=f"^path: {published}/class_names.txt holds other lines than airplane, bird, "
    ):
        make_ood("stl10", path=str(published)).open()
