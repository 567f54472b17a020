"""Copies of dSprites and SmallNORB that are not as they were published, and what the user is told."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vtab_originals_miniatures as written
from peft_vision.core.config import ConfigError
from peft_vision.data.vtab.raw.table import READERS


def dsprites_changed(column: int, value: float, complaint: str) -> Callable[[Path], str]:
    def spoil(root: Path) -> str:
        images, classes = written.dsprites_arrays()
        classes = classes.astype(type(value))
        classes[3, column] = value
        file = root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
        np.savez(file, imgs=images, latents_classes=classes)
        return f"data.root: {file} {complaint}"

    return spoil


def dsprites_other_properties(root: Path) -> str:
    images, classes = written.dsprites_arrays()
    file = root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    np.savez(file, imgs=images, latents_classes=classes[:, :5])
    return f"data.root: {file} has labels of shape (20, 5), should be (n, 6)"


def dsprites_promised(root: Path) -> str:
    """Labels of 10^12 rows, of which three bytes are there."""
    file = root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    with zipfile.ZipFile(file, "w") as archive:
        for name, shape, kind in (("imgs", (20, 64, 64), "|u1"), ("latents_classes", (10**12, 6), "<i8")):
            with archive.open(f"{name}.npy", "w") as member:
                head = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, head)
                member.write(b"abc")
    return "(ValueError: an array of (1000000000000, 6) int64 in 131 bytes)"


def dsprites_torn(root: Path) -> str:
    file = root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    file.write_bytes(file.read_bytes()[:-30])
    return f"data.root: cannot read {file} (BadZipFile: "


def dsprites_of_other_size(root: Path) -> str:
    _, classes = written.dsprites_arrays()
    np.savez(
        root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        imgs=np.zeros((19, 64, 64), np.uint8),
        latents_classes=classes,
    )
    return "has images of shape (19, 64, 64) and 20 labels, should have (20, 64, 64)\nfetch it again from github.com"


def dsprites_of_other_type(root: Path) -> str:
    np.savez(root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz", imgs=np.zeros((20, 64, 64)))
    return "(ValueError: images of float64, should be of uint8 row by row), should be an archive of imgs and latents_"


def smallnorb_other_magic(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-dat.mat"
    file.write_bytes(b"\x54\x4c\x3d\x1f" + file.read_bytes()[4:])
    return (
        f"data.root: cannot read {file} (ValueError: magic number 0x1f3d4c54), should be a matrix of SmallNORB; fetch"
    )


def smallnorb_magic_of_integers(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-dat.mat"
    file.write_bytes(written.matrix(written.smallnorb_pixels("testing").astype(np.int32)))
    return f"{file} holds an array of (6, 2, 96, 96) int32, should hold image pairs, (n, 2, 96, 96) uint8"


def smallnorb_cut_short(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-dat.mat"
    file.write_bytes(file.read_bytes()[:-1])
    return f"{file} (ValueError: 110,615 bytes, should be 110,616 for (6, 2, 96, 96) uint8), should be a matrix of"


def smallnorb_larger(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['training']}-dat.mat.gz"
    file.write_bytes(gzip.compress(written.matrix(np.zeros((3, 2, 97, 96), np.uint8))))
    return "holds an array of (3, 2, 97, 96) uint8, should hold image pairs, (n, 2, 96, 96) uint8"


def smallnorb_packed_torn(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['training']}-info.mat.gz"
    file.write_bytes(file.read_bytes()[:-12])
    return f"data.root: cannot read {file} (EOFError: "


def smallnorb_other_count(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-info.mat"
    file.write_bytes(written.matrix(np.zeros((5, 4), np.int32)))
    return f"{file} holds an array of (5, 4), should hold (6, 4): "


def smallnorb_single_images(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-dat.mat"
    file.write_bytes(written.matrix(np.zeros((6, 96, 96), np.uint8)))
    return "holds an array of (6, 96, 96) uint8, should hold image pairs, (n, 2, 96, 96) uint8"


def smallnorb_other_labels(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-info.mat"
    file.write_bytes(written.matrix(np.full((6, 4), 40, np.int32)))
    return "-info.mat has labels 20 to 20, beyond VTAB's classes"


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        ("dsprites_location", dsprites_changed(4, 32, "holds labels 12 to 32, should be 0 to 31")),
        ("dsprites_orientation", dsprites_changed(3, 40, "holds labels 0 to 40, should be 0 to 39")),
        ("dsprites_orientation", dsprites_changed(3, -1, "holds labels -1 to 38, should be 0 to 39")),
        ("dsprites_location", dsprites_changed(4, 1.0, "holds float64 (20,), should be whole numbers")),
        ("dsprites_location", dsprites_other_properties),
        ("dsprites_location", dsprites_promised),
        ("dsprites_location", dsprites_torn),
        ("dsprites_location", dsprites_of_other_size),
        ("dsprites_location", dsprites_of_other_type),
        ("smallnorb_azimuth", smallnorb_other_magic),
        ("smallnorb_azimuth", smallnorb_magic_of_integers),
        ("smallnorb_azimuth", smallnorb_cut_short),
        ("smallnorb_azimuth", smallnorb_larger),
        ("smallnorb_azimuth", smallnorb_packed_torn),
        ("smallnorb_azimuth", smallnorb_other_count),
        ("smallnorb_azimuth", smallnorb_single_images),
        ("smallnorb_azimuth", smallnorb_other_labels),
    ],
)
def test_a_copy_that_is_not_as_published_is_refused(refused_original, task: str, spoil: Callable[[Path], str]):
    complaint, said = refused_original(task, spoil)
    assert complaint in said
    assert len(said.splitlines()) <= 2


def test_damage_among_the_images_of_dsprites_is_told_when_they_are_read(vtab_original):
    root = vtab_original("dsprites_location")
    file = root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    content = bytearray(file.read_bytes())
    release = READERS["dsprites_location"](root)
    start = content.index(b"imgs.npy") + 2000
    content[start : start + 200] = bytes(200)
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot read .*x32y32_64x64\.npz"):
        release.test.pictures.verify(0)


def test_damage_among_the_images_of_smallnorb_is_told_when_they_are_read(vtab_original):
    root = vtab_original("smallnorb_azimuth")
    release = READERS["smallnorb_azimuth"](root)
    file = release.train.pictures.file
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-20]))
    with pytest.raises(ConfigError, match=r"cannot read .*should be a matrix of SmallNORB"):
        release.train.pictures.verify(0)
