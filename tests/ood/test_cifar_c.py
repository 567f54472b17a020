from pathlib import Path

import numpy as np
import pytest

from ood_miniatures import CIFAR10, cifar_c, shown
from peft_vision.core.config import ConfigError
from peft_vision.ood.base import OOD
from peft_vision.ood.cifar import CIFAR100, CORRUPTIONS
from peft_vision.ood.match import matched
from shift_miniatures import make_ood

LABELS = [3, 8, 0, 9, 6]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return cifar_c(tmp_path / "CIFAR-10-C", ["fog", "snow"], LABELS)


def make(published: Path, **overrides: object) -> OOD:
    return make_ood("cifar10_c", **{"path": str(published), "corruptions": ["fog", "snow"]} | overrides)


def test_every_corruption_and_severity_is_a_shift(published: Path):
    ood = make(published)
    ood.check()
    assert list(ood.open()) == [f"{name}-{severity}" for name in ("fog", "snow") for severity in (1, 2, 3, 4, 5)]


def test_a_picture_lands_on_its_class_and_severity(published: Path):
    ood = make(published, corruptions=["snow"], severities=[5, 2])
    run = tuple(sorted(CIFAR10, reverse=True))
    shifts = ood.open()
    assert list(shifts) == ["snow-5", "snow-2"]
    for name, shift in shifts.items():
        found = matched(shift, ood, run, where=f"ood.cifar10_c.{name}").labelled
        assert shown(found) == LABELS
        assert [run[label] for label in found.labels.tolist()] == [CIFAR10[label] for label in LABELS]
        assert {found.pictures.read(index).getpixel((0, 0))[0] for index in range(5)} == {int(name[-1])}


def test_the_hundred_classes_are_those_of_cifar100(tmp_path: Path):
    labels = list(range(100))
    folder = cifar_c(tmp_path / "CIFAR-100-C", ["fog"], labels)
    ood = make_ood("cifar100_c", path=str(folder), corruptions=["fog"])
    found = matched(ood.open()["fog-3"], ood, CIFAR100, where="ood.cifar100_c")
    assert shown(found.labelled) == found.labelled.labels.tolist() == labels
    assert (found.missing, found.dropped) == ((), ())


def test_classes_of_the_other_cifar_are_refused(published: Path):
    ood = make(published)
    with pytest.raises(ConfigError, match=r"ood.c: none of its classes .*'airplane', 'automobile', 'bird', \.\.\."):
        matched(ood.open()["fog-1"], ood, CIFAR100, where="ood.c")


@pytest.mark.parametrize("name", ["cifar10_c", "cifar100_c"])
def test_the_fifteen_of_the_paper_are_chosen_and_four_more_are_known(name: str):
    assert make_ood(name).corruptions == CORRUPTIONS[:15]
    assert make_ood(name, corruptions=list(CORRUPTIONS)).corruptions[15:] == (
        *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
    )


def test_pictures_are_mapped_rather_than_read(published: Path):
    images = make(published).open()["fog-2"].labelled.pictures.images
    assert isinstance(images, np.memmap)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"corruptions": ["fog", "smog"]},
            "ood.cifar10_c.corruptions.1: got 'smog', should be 'gaussian_noise', ",
        ),
        ({"corruptions": []}, "ood.cifar10_c.corruptions: got"),
        ({"severities": [0, 1]}, "ood.cifar10_c.severities.0: got 0"),
        ({"severities": [6]}, "ood.cifar10_c.severities.0: got 6"),
        ({"severities": []}, "ood.cifar10_c.severities: got"),
        ({"classes": "cifar20"}, "ood.cifar10_c.classes: got 'cifar20', should be 'cifar10' or 'cifar100'"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict, complaint: str):
    with pytest.raises(ConfigError) as error:
        make_ood("cifar10_c", **values)
    assert complaint in str(error.value)


@pytest.mark.parametrize(("name", "record"), [("cifar10_c", "2535967"), ("cifar100_c", "3555552")])
def test_a_set_that_is_not_there_is_refused_with_where_it_comes_from(tmp_path: Path, name: str, record: str):
    with pytest.raises(ConfigError) as error:
        make_ood(name, path=str(tmp_path / "C")).check()
    message = str(error.value)
    assert message.startswith(
        f"path: no folder {tmp_path}/C, which should hold 16 parts of {name[:-2].replace('cifar', 'CIFAR-')}-C: "
    )
    assert f"zenodo.org/records/{record}" in message
    assert "2.9 GB" in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize("name", ["fog", "labels"])
def test_a_file_that_is_not_there_is_named(published: Path, name: str):
    (published / f"{name}.npy").unlink()
    with pytest.raises(ConfigError, match=rf"^path: {published} lacks 1 of \d+ parts of CIFAR-10-C: {name}.npy\n"):
        make(published).check()


def test_an_array_that_is_cut_short_is_refused(published: Path):
    path = published / "snow.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ConfigError, match=rf"^path: cannot read {path} \(.*, should be a NumPy file of numbers; fetch it again$"
    ):
        make(published).open()


def test_severities_of_unequal_size_are_refused(published: Path):
    np.save(published / "fog.npy", np.load(published / "fog.npy")[:-1])
    with pytest.raises(ConfigError, match=f"{published}/fog.npy holds 24 images, should be as many of each severity"):
        make(published).open()


def test_corruptions_of_unequal_size_are_refused(published: Path):
    np.save(published / "snow.npy", np.load(published / "snow.npy")[:20])
    with pytest.raises(ConfigError, match=r"snow.npy holds uint8 \(20, 32, 32, 3\), should be uint8 \(25, 32, 32, 3\)"):
        make(published).open()


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.array(LABELS, dtype=np.uint8), r"labels.npy holds uint8 \(5,\), should be 25 whole numbers"),
        (np.array([*LABELS, 10] * 5, dtype=np.uint8)[:25], "labels.npy holds labels 0 to 10, should be 0 to 9"),
    ],
)
def test_labels_that_do_not_fit_are_refused(published: Path, labels: np.ndarray, complaint: str):
    np.save(published / "labels.npy", labels)
    with pytest.raises(ConfigError, match=complaint):
        make(published).open()
