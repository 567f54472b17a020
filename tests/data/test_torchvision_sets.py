import shutil
import socket
import tarfile
import tempfile
import threading
import time
import urllib.error
from pathlib import Path

import pytest
import torch

from miniatures import WRITERS
from nobody import as_nobody
from peft_vision.core.config import ConfigError
from peft_vision.data import download
from peft_vision.data.torchvision_table import TABLE

pytestmark = pytest.mark.usefixtures("any_checksum")

OWN_VAL = {"flowers102", "dtd"}
WITH_MASKS = {"voc_masks", "pets_masks"}  # in test_mask_layouts.py
NO_TEST = {"eurosat", "caltech101"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_every_data_set_of_the_table_has_a_miniature_and_an_option(make):
    assert {*WRITERS, *WITH_MASKS} == set(TABLE)
    assert all(make(name).name == name for name in TABLE)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_present_data_set_is_read_through_torchvision_without_network(
    make, preprocessing, tmp_path, picture, offline, name
):
    classes = WRITERS[name](tmp_path / "sets", picture)
    data = make(name, root=str(tmp_path / "sets"), train_size=3 * classes if name not in OWN_VAL else None)
    data.check()
    splits = data.load(preprocessing)
    assert len(splits.classes) == len(set(splits.classes)) == classes
    assert splits.train.labels.unique().tolist() == list(range(classes))
    assert splits.val is not None
    assert splits.test.labels.max() < classes
    assert splits.train.pixels.shape[1:] == (3, 16, 16)
    assert ("not an official split" in splits.source) == (name in NO_TEST)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_pictures_and_labels_are_those_torchvision_gives(make, tmp_path, picture, name):
    WRITERS[name](tmp_path / "sets", picture)
    sets = make(name, root=str(tmp_path / "sets"), download=False).open()
    entry = TABLE[name]
    dataset = entry.cls(root=str(tmp_path / "sets"), **entry.train)
    for position in torch.arange(len(sets.train))[::37].tolist():
        index = int(sets.train.indices[position])
        image, label = dataset[index]
        assert sets.train.pictures.read(index).tobytes() == image.tobytes()
        assert int(sets.train.labels[position]) == label


@pytest.mark.parametrize("name", sorted(OWN_VAL))
def test_an_own_validation_split_is_used_whole(make, preprocessing, tmp_path, picture, name):
    WRITERS[name](tmp_path / "sets", picture)
    data = make(name, root=str(tmp_path / "sets"), val_fraction=0)
    splits = data.load(preprocessing)
    assert len(splits.val) == len(splits.train)
    assert "official validation split" in splits.source


def test_labels_are_read_without_decoding(make, tmp_path, picture):
    classes = WRITERS["food101"](tmp_path / "sets", picture)
    for path in (tmp_path / "sets").rglob("*.jpg"):
        path.unlink()
    assert len(make("food101", root=str(tmp_path / "sets")).open().train) == 4 * classes


def test_the_root_may_begin_with_home(make, tmp_path, picture, monkeypatch):
    WRITERS["svhn"](tmp_path / "sets", picture)
    monkeypatch.setenv("HOME", str(tmp_path))
    make("svhn", root="~/sets", download=False).check()


@pytest.mark.parametrize("name", sorted(TABLE))
@pytest.mark.parametrize("may_download", [True, False])
def test_missing_data_are_refused_with_path_and_ways_out(make, tmp_path, offline, monkeypatch, name, may_download):
    monkeypatch.chdir(tmp_path)
    data = make(name, root="sets", download=may_download)
    for attempt in (data.check, data.open):
        with pytest.raises(ConfigError) as error:
            attempt()
        message = str(error.value)
        assert len(message.splitlines()) == 2
        for part in (name, str(tmp_path / "sets"), "data.download=true", "data.root=", "experiment=demo"):
            assert part in message
    assert not list(tmp_path.iterdir())  # nothing begun


def test_a_silent_network_is_given_up_within_seconds(make, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        site = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(download, "PROBE_SECONDS", 0.3)
        start = time.monotonic()
        assert not download.reachable(site)
        assert time.monotonic() - start < 3


def test_a_name_server_that_hangs_is_given_up_within_seconds(monkeypatch):
    over = threading.Event()

    def hang(*args: object, **kwargs: object) -> None:
        over.wait(10)
        raise urllib.error.URLError("at last")

    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", hang)
    start = time.monotonic()
    assert not download.reachable("https://example.org")
    assert time.monotonic() - start < 3
    over.set()


def packed_dtd(root: Path, picture, tmp_path: Path) -> None:
    """What a user brings from another machine: the archive, not unpacked."""
    WRITERS["dtd"](tmp_path / "elsewhere", picture)
    (root / "dtd").mkdir(parents=True)
    with tarfile.open(root / "dtd" / "dtd-r1.0.1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "elsewhere" / "dtd" / "dtd", arcname="dtd")


def test_an_archive_under_the_root_is_unpacked_without_network(make, tmp_path, picture, offline):
    root = tmp_path / "sets"
    packed_dtd(root, picture, tmp_path)
    data = make("dtd", root=str(root))
    data.check()
    assert len(data.open().train) == 4 * 47
    assert (root / "dtd" / "dtd-r1.0.1.tar.gz").is_file()
    assert not (root / ".dtd.partial").exists()


def test_a_killed_unpacking_is_never_taken_for_the_data(make, tmp_path, picture, offline, monkeypatch):
    root = tmp_path / "sets"
    packed_dtd(root, picture, tmp_path)
    data = make("dtd", root=str(root))

    def killed(*args: object, **kwargs: object) -> None:
        (root / ".dtd.partial" / "dtd" / "dtd" / "labels").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.dtd.download_and_extract_archive", killed)
        with pytest.raises(KeyboardInterrupt):
            data.open()
    assert not download.present(TABLE["dtd"], root)
    assert len(data.open().train) == 4 * 47


def test_a_download_that_fails_is_one_clear_error(make, tmp_path, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peft_vision.data.torchvision_sets.reachable", lambda site: True)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", full)
    with pytest.raises(ConfigError, match=f"cannot download cifar100 to {tmp_path}.*No space left") as error:
        make("cifar100", root=str(tmp_path)).open()
    assert len(str(error.value).splitlines()) == 2


def test_data_that_are_damaged_are_not_overwritten_but_named(make, tmp_path, picture):
    WRITERS["cifar10"](tmp_path / "sets", picture)
    (tmp_path / "sets" / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(ConfigError) as error:
        make("cifar10", root=str(tmp_path / "sets")).open()
    assert f"cifar10 in {tmp_path / 'sets'} is damaged" in str(error.value)
    assert "remove cifar-10-batches-py there" in str(error.value)


def test_data_in_a_folder_that_may_only_be_read_need_no_lock(picture):
    root = Path(tempfile.mkdtemp())
    WRITERS["dtd"](root, picture)
    root.chmod(0o555)
    as_nobody(lambda: download.fetch("dtd", TABLE["dtd"], root))
    assert not (root / ".dtd.lock").exists()
    root.chmod(0o755)
    shutil.rmtree(root)


def test_the_fingerprint_of_a_folder_with_a_missing_picture_is_another(make, tmp_path, picture):
    WRITERS["dtd"](tmp_path / "sets", picture)
    data = make("dtd", root=str(tmp_path / "sets"))
    before = data.fingerprint(skipped=0)
    (tmp_path / "sets" / "dtd" / "dtd" / "images" / "texture05" / "train1.jpg").unlink()
    assert data.fingerprint(skipped=0) != before


def test_a_picture_that_is_missing_is_named(make, tmp_path, picture, preprocessing):
    WRITERS["dtd"](tmp_path / "sets", picture)
    gone = tmp_path / "sets" / "dtd" / "dtd" / "images" / "texture05" / "train1.jpg"
    gone.unlink()
    with pytest.raises(ConfigError, match=f"cannot read {gone}"):
        make("dtd", root=str(tmp_path / "sets")).load(preprocessing)
