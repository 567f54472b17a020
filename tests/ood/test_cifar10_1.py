from pathlib import Path

import numpy as np
import pytest

from ood_miniatures import CIFAR10, cifar10_1, painted, shown
from peft_vision.core.config import ConfigError
from peft_vision.ood.match import matched
from shift_miniatures import make_ood

LABELS = [3, 0, 9, 6, 1, 2, 4, 5, 7, 8, 3]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return cifar10_1(tmp_path / "datasets", LABELS)


@pytest.mark.parametrize("version", ["v4", "v6"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_a_picture_lands_on_its_class_in_the_run(tmp_path: Path, version: str, dtype: type):
    folder = cifar10_1(tmp_path / "datasets", LABELS, version=version, dtype=dtype)
    ood = make_ood("cifar10_1", path=str(folder), version=version)
    ood.check()
    run = tuple(sorted(CIFAR10, reverse=True))
    found = matched(ood.open()[""], ood, run, where="ood.cifar10_1").labelled
    assert shown(found) == LABELS
    assert [run[label] for label in found.labels.tolist()] == [CIFAR10[label] for label in LABELS]


def test_the_path_may_begin_with_home(published: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(published.parent))
    make_ood("cifar10_1", path="~/datasets").check()


def test_what_is_no_file_is_refused_before_anything_is_opened(published: Path):
    path = published / "cifar10.1_v6_labels.npy"
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=f"^path: cannot read {path}: a folder, should be a regular file$"):
        make_ood("cifar10_1", path=str(published)).check()


def test_a_set_that_is_not_there_is_refused_with_where_it_comes_from(published: Path):
    with pytest.raises(ConfigError) as error:
        make_ood("cifar10_1", path=str(published), version="v4").check()
    message = str(error.value)
    assert message.startswith(f"path: {published} lacks 2 of 2 parts of CIFAR-10.1: cifar10.1_v4_data.npy, ")
    assert "github.com/modestyachts/CIFAR-10.1" in message
    assert "6 MB" in message
    assert len(message.splitlines()) == 2


def cut(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])


@pytest.mark.parametrize("left", [0, 60, 20_000])
@pytest.mark.parametrize("name", ["data", "labels"])
def test_an_array_that_is_cut_short_is_refused(published: Path, name: str, left: int):
    path = published / f"cifar10.1_v6_{name}.npy"
    cut(path, min(left, path.stat().st_size - 1))
    with pytest.raises(
        ConfigError, match=rf"^path: cannot read {path} \(.*\), should be a NumPy file of numbers; fetch it again$"
    ):
        make_ood("cifar10_1", path=str(published)).open()


@pytest.mark.parametrize(
    ("images", "held"),
    [
        (painted(LABELS, 32).astype(np.float32), r"float32 \(11, 32, 32, 3\)"),
        (painted(LABELS, 32).transpose(0, 3, 1, 2), r"uint8 \(11, 3, 32, 32\)"),
        (painted(LABELS, 28), r"uint8 \(11, 28, 28, 3\)"),
        (painted(LABELS, 32)[0], r"uint8 \(32, 32, 3\)"),
    ],
)
def test_pictures_of_another_type_or_shape_are_refused(published: Path, images: np.ndarray, held: str):
    np.save(published / "cifar10.1_v6_data.npy", images)
    with pytest.raises(ConfigError, match=rf"_data.npy holds {held}, should be uint8 \(n, 32, 32, 3\)"):
        make_ood("cifar10_1", path=str(published)).open()


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([*LABELS[:-1], 10], "holds labels 0 to 10, should be 0 to 9"),
        ([*LABELS[:-1], -1], "holds labels -1 to 9, should be 0 to 9"),
        (LABELS[:-1], r"holds int64 \(10,\), should be 11 whole numbers"),
        ([float(label) for label in LABELS], r"holds float64 \(11,\), should be 11 whole numbers"),
        ([[label] for label in LABELS], r"holds int64 \(11, 1\), should be 11 whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(published: Path, labels: list, complaint: str):
    np.save(published / "cifar10.1_v6_labels.npy", np.array(labels))
    with pytest.raises(ConfigError, match=f"^path: {published}/cifar10.1_v6_labels.npy {complaint}"):
        make_ood("cifar10_1", path=str(published)).open()


def test_nothing_is_unpickled(published: Path):
    np.save(published / "cifar10.1_v6_labels.npy", np.array([{}] * len(LABELS), dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"^path: .*_labels.npy"):
        make_ood("cifar10_1", path=str(published)).open()


def test_an_unknown_version_is_refused():
    with pytest.raises(ConfigError, match=r"ood.cifar10_1.version: got 'v5', should be 'v4' or 'v6'"):
        make_ood("cifar10_1", version="v5")
