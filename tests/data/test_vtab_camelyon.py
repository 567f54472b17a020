"""Patch Camelyon's order, and what its HDF5 files may hold."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.vtab.raw import camelyon
from peft_vision.data.vtab.raw.table import READERS

COUNT = 24


def file_of(root: Path, split: str, part: str) -> Path:
    return root / f"camelyonpatch_level_2_split_{split}_{part}.h5"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 patches a split; every third shows a tumour."""
    for split in ("train", "valid", "test"):
        with h5py.File(file_of(tmp_path, split, "x"), "w") as file:
            file["x"] = np.zeros((COUNT, 96, 96, 3), np.uint8)
        with h5py.File(file_of(tmp_path, split, "y"), "w") as file:
            file["y"] = (np.arange(COUNT) % 3 == 0).astype(np.uint8).reshape(-1, 1, 1, 1)
    return tmp_path


def by_key(salt: str, name: str) -> list[int]:
    """The places of TensorFlow Datasets, computed anew: by md5 of the name of the split there and of the key."""
    return sorted(range(COUNT), key=lambda number: hashlib.md5(f"{salt}{name}_{number}".encode()).digest())


def test_keys_have_the_published_name_of_the_split_and_the_row(root: Path):
    release = READERS["camelyon"](root)
    assert release.train.indices.tolist() == by_key("train", "train")
    assert release.val.indices.tolist() == by_key("validation", "valid")
    assert release.test.indices.tolist() == list(range(COUNT))
    for part in (release.train, release.val, release.test):
        assert part.labels.tolist() == [int(index % 3 == 0) for index in part.indices.tolist()]


Spoil = Callable[[h5py.File], object]


def elsewhere(name: str) -> Spoil:
    def spoil(file: h5py.File) -> None:
        with h5py.File(f"{file.filename}.other", "w") as other:
            other["secret"] = np.zeros((COUNT, 96, 96, 3) if name == "x" else (COUNT, 1, 1, 1), np.uint8)
        file[name] = h5py.ExternalLink(f"{file.filename}.other", "secret")

    return spoil


def other_storage(file: h5py.File) -> None:
    Path(f"{file.filename}.raw").write_bytes(bytes(COUNT))
    file.create_dataset("y", (COUNT, 1, 1, 1), np.uint8, external=[(f"{file.filename}.raw", 0, COUNT)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((COUNT, 1, 1, 1), np.uint8)
    layout[:] = h5py.VirtualSource(f"{file.filename}.other", "y", (COUNT, 1, 1, 1))
    file.create_virtual_dataset("y", layout)


def soft_link(file: h5py.File) -> None:
    file["z"] = np.zeros((COUNT, 1, 1, 1), np.uint8)
    file["y"] = h5py.SoftLink("/z")


def array(name: str, shape: tuple[int, ...], kind: type = np.uint8, fill: float = 0) -> Spoil:
    """Nothing of it is stored, however large it says it is."""
    return lambda file: file.create_dataset(name, shape, kind, chunks=(1, *shape[1:]), fillvalue=fill)


@pytest.mark.parametrize(
    ("part", "spoil", "complaint"),
    [
        ("x", elsewhere("x"), "(ValueError: x lies in another place), should be an HDF5 file with images x; unpack"),
        ("y", elsewhere("y"), "(ValueError: y lies in another place), should be an HDF5 file with labels y; unpack"),
        ("y", soft_link, "(ValueError: y lies in another place)"),
        ("y", other_storage, "(ValueError: y lies in another file)"),
        ("y", virtual, "(ValueError: y lies in another file)"),
        ("y", lambda file: file.create_group("y"), "(ValueError: y is no array)"),
        ("y", lambda file: None, "(ValueError: no y)"),
        ("x", array("x", (10**12, 96, 96, 3)), "holds x of (1000000000000, 96, 96, 3) uint8, should hold (n, 96,"),
        ("x", array("x", (COUNT, 10**6, 96, 3)), "holds x of (24, 1000000, 96, 3) uint8, should hold (n, 96, 96, 3)"),
        ("y", array("y", (10**12, 1, 1, 1)), "y.h5 1000000000000 labels"),
        ("y", array("y", (COUNT, 1, 1, 1), np.float32), "holds float32 (24,), should be whole numbers"),
        ("y", array("y", (COUNT, 1, 1, 1), np.float32, np.nan), "holds float32 (24,), should be whole numbers"),
        ("y", array("y", (COUNT, 1, 1, 1), np.int8, -1), "holds labels -1 to -1, should be 0 to 1"),
        ("y", array("y", (COUNT, 1, 1, 1), np.uint8, 2), "holds labels 2 to 2, should be 0 to 1"),
    ],
)  # fmt: skip
def test_arrays_lie_in_the_file_and_are_as_published(root: Path, part: str, spoil: Spoil, complaint: str):
    file = file_of(root, "valid", part)
    with h5py.File(file, "w") as content:
        spoil(content)
    with pytest.raises(ConfigError) as error:
        READERS["camelyon"](root)
    assert str(file) in str(error.value)
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_row_that_cannot_be_read_is_a_corrupt_picture(root: Path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("a filter of HDF5")

    pictures = READERS["camelyon"](root).train.pictures
    monkeypatch.setattr(camelyon, "_array", fail)
    with pytest.raises(OSError, match="a filter of HDF5"):
        pictures.verify(3)
