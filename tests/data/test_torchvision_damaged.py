"""Every file of torchvision's data sets but pictures, broken in ten ways: one line names it, or it did not matter."""

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from damaged import complaints, summary
from miniatures import WRITERS, Picture
from peft_vision.core.config import ConfigError
from peft_vision.data.torchvision_sets import require_sum

pytestmark = pytest.mark.usefixtures("any_checksum")

FILES = {
    "cifar10": (
        "cifar-10-batches-py/data_batch_3",
        "cifar-10-batches-py/test_batch",
        "cifar-10-batches-py/batches.meta",
    ),
    "stl10": ("stl10_binary/train_X.bin", "stl10_binary/test_y.bin", "stl10_binary/class_names.txt"),
    "food101": ("food-101/meta/train.json", "food-101/meta/test.json"),
}
"""Of those that VTAB does not read as well."""
UNNOTICED = {
    *((damage, "train_X.bin") for damage in ("wrong_magic", "huge_length")),  # pixels may have any value
    ("other_shape", "class_names.txt"),  # and classes any name
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(make: Callable, name: str, tmp_path: Path, picture: Picture):
    WRITERS[name](tmp_path, picture)

    def read():
        sets = make(name, root=str(tmp_path), download=False).open()
        return summary(sets.classes, sets.train, sets.val, sets.test)

    assert complaints(read, [tmp_path / file for file in FILES[name]], unnoticed=UNNOTICED) == ""


def test_files_are_the_published_ones(tmp_path: Path):
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    require_sum(file, "900150983cd24fb0d6963f7d28e17f72")  # RFC 1321
    with pytest.raises(
        ConfigError, match=rf"cannot read {file} \(ValueError: its md5 is 900150983cd24fb0d6963f7d28e17f72"
    ):
        require_sum(file, "900150983cd24fb0d6963f7d28e17f73")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "flowers102"])
def test_sums_are_asked_of_every_file_that_is_read(make, tmp_path, picture, name, monkeypatch):
    """And of no other, such as STL-10's 2.6 GB without labels."""
    WRITERS[name](tmp_path / "sets", picture)
    (tmp_path / "sets" / "stl10_binary" / "unlabeled_X.bin").unlink(missing_ok=True)
    asked = []
    monkeypatch.setattr("peft_vision.data.torchvision_sets.require_sum", lambda path, md5: asked.append((path, md5)))
    make(name, root=str(tmp_path / "sets"), download=False).open()
    unasked = (".jpg", ".lock", ".txt")  # STL-10's names of classes have no published sum
    assert {path for path, _ in asked} == {
        path for path in (tmp_path / "sets").rglob("*") if path.is_file() and path.suffix not in unasked
    }
    assert all(len(md5) == 32 for _, md5 in asked)


@pytest.mark.parametrize("name", ["eurosat", "caltech101"])
def test_what_programs_leave_in_a_folder_is_no_class_and_no_picture(make, tmp_path, picture, name):
    WRITERS[name](tmp_path / "sets", picture)
    data = make(name, root=str(tmp_path / "sets"), download=False)
    before = data.open()
    (folder,) = (tmp_path / "sets").glob("*/*")
    (folder / ".ipynb_checkpoints").mkdir()
    picture(1).save(folder / ".ipynb_checkpoints" / "a.jpg")
    for entry in folder.iterdir():
        (entry / "Thumbs.db").write_bytes(b"")
    after = data.open()
    assert after.classes == before.classes
    assert after.train.digest() == before.train.digest()


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "complaint"),
    [
        (
            "pets",
            "oxford-iiit-pet/annotations/test.txt",
            "breed_03_test0 4 ",
            "breed_03_test0 5 ",
            "should be of a class",
        ),
        ("pets", "oxford-iiit-pet/annotations/test.txt", "breed_36_test0 37 ", "breed_36_test0 0 ", "should be"),
        ("pets", "oxford-iiit-pet/annotations/test.txt", "breed_03_test0 ", "../../secret_0 ", "should be"),
        ("dtd", "dtd/dtd/labels/test1.txt", "texture03/test0.jpg", "../test0.jpg", "should be CLASS/FILE.jpg"),
        ("dtd", "dtd/dtd/labels/test1.txt", "texture03/test0.jpg", "texture03/test1.jpg", "a second time"),
        ("food101", "food-101/meta/test.json", "dish000/test0", "../../secret", "should be CLASS/FILE"),
        ("food101", "food-101/meta/test.json", '"dish000": [', '"dish000": ["dish000/test1", ', "a second time"),
        ("stl10", "stl10_binary/class_names.txt", "class 3", "class 4", "names 9 classes in 10 lines"),
    ],
)
def test_a_list_that_does_not_hold_together_is_named(make, tmp_path, picture, name, file, old, new, complaint):
    WRITERS[name](tmp_path / "sets", picture)
    path = tmp_path / "sets" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        make(name, root=str(tmp_path / "sets"), download=False).open()
    first, second = str(error.value).splitlines()
    assert str(path) in first
    assert complaint in first
    assert second.startswith("remove ")


def batch(**changes: object) -> dict[str, object]:
    return {"data": np.zeros((20, 3072), np.uint8), "labels": list(range(10)) * 2, **changes}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (batch(labels=[10, *range(1, 20)]), "should be 0 to 9"),
        (batch(labels=[-1] * 20), "holds labels -1 to -1, should be 0 to 9"),
        (batch(labels=[0.5] * 20), "labels that are no list of whole numbers"),
        (batch(labels=[0, 1]), "holds int64 (2,), should be 20 whole numbers"),
        (batch(labels=[]), "labels that are no list of whole numbers"),
        (batch(data=np.zeros((20, 3072))), "data of float64 (20, 3072), should be uint8 (n, 3072)"),
        (batch(data=np.zeros((20, 3000), np.uint8)), "data of uint8 (20, 3000), should be uint8 (n, 3072)"),
        (batch(data=[1, 2]), "AttributeError"),
        ({"labels": [0]}, "KeyError: 'data'"),
    ],
)
def test_a_batch_of_cifar_that_is_not_as_published_is_named(make, tmp_path, picture, content, complaint):
    WRITERS["cifar10"](tmp_path / "sets", picture)
    path = tmp_path / "sets" / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConfigError) as error:
        make("cifar10", root=str(tmp_path / "sets"), download=False).open()
    assert str(path) in str(error.value)
    assert complaint in str(error.value)


NUMBERS = np.arange(1, 103)


@pytest.mark.parametrize(
    ("name", "file", "values", "complaint"),
    [
        ("flowers102", "setid.mat", {"trnid": [*NUMBERS, 7]}, "names 7 a second time"),
        ("flowers102", "setid.mat", {"trnid": [307]}, "names image 307, but imagelabels.mat has 306 labels"),
        ("flowers102", "setid.mat", {"trnid": [0, 1]}, "holds trnid 0 to 1, should be 1 to 99999"),
        ("flowers102", "imagelabels.mat", {"labels": [*NUMBERS, 103]}, "holds labels 1 to 103, should be 1 to 102"),
        ("flowers102", "imagelabels.mat", {"labels": [1.5] * 306}, "holds float64 (306,), should be whole numbers"),
        ("svhn", "train_32x32.mat", {"y": [0] * 40}, "holds labels 0 to 0, should be 1 to 10"),
        ("svhn", "train_32x32.mat", {"y": [11] * 40}, "holds labels 11 to 11, should be 1 to 10"),
        ("svhn", "train_32x32.mat", {"y": [1] * 39}, "should be 40 whole numbers"),
        ("svhn", "train_32x32.mat", {"X": np.zeros((32, 32, 3, 40))}, "X of float64 (32, 32, 3, 40), should be uint8"),
    ],
)
def test_tables_of_matlab_hold_what_was_published(make, tmp_path, picture, name, file, values, complaint):
    WRITERS[name](tmp_path / "sets", picture)
    (path,) = (tmp_path / "sets").rglob(file)
    whole = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    savemat(path, whole | values)
    with pytest.raises(ConfigError) as error:
        make(name, root=str(tmp_path / "sets"), download=False).open()
    assert str(path) in str(error.value)
    assert complaint in str(error.value)


def test_an_archive_that_is_not_the_published_one_is_never_unpacked(make, tmp_path, monkeypatch):
    """Whatever its members are called: the checksum comes first."""
    monkeypatch.undo()  # the true check of sums
    monkeypatch.setattr("peft_vision.data.torchvision_sets.reachable", lambda site: True)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda *_: None)
    root = tmp_path / "sets"
    root.mkdir()
    (tmp_path / "secret").write_text("evil")
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "secret", arcname="../../escaped")
    with pytest.raises(ConfigError, match="cannot download cifar10"):
        make("cifar10", root=str(root)).open()
    assert not list(tmp_path.rglob("escaped"))
