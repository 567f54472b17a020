"""Copies of structured tasks that are not as they were published, and what the user is told."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vtab_originals_miniatures as written
from peft_vision.config import ConfigError
from peft_vision.data.vtab.originals.table import READERS
from tfrecord_writer import example_bytes, write_records


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def clevr_packed(root: Path) -> str:
    shutil.rmtree(root / "CLEVR_v1.0")
    (root / "CLEVR_v1.0.zip").write_bytes(b"PK")
    return "lacks 4 of 4 parts of CLEVR: CLEVR_v1.0/images/train, CLEVR_v1.0/images/val, CLEVR_v1.0/scenes/CLEVR_tr"


def clevr_scene_without_image(root: Path) -> str:
    (root / "CLEVR_v1.0" / "images" / "val" / "CLEVR_val_000001.png").unlink()
    return "images/val lacks 1 of the 2 images of CLEVR_val_scenes.json, such as CLEVR_val_000001.png"


def clevr_torn(root: Path) -> str:
    file = root / "CLEVR_v1.0" / "scenes" / "CLEVR_train_scenes.json"
    file.write_text(file.read_text()[:-40])
    return f"data.root: cannot read the scenes of {file} (JSONDecodeError: "


def clevr_of_other_form(root: Path) -> str:
    (root / "CLEVR_v1.0" / "scenes" / "CLEVR_train_scenes.json").write_text('{"questions": []}')
    return "CLEVR_train_scenes.json (TypeError: "


def dmlab_torn(root: Path) -> str:
    file = root / "dmlab" / "dmlab-test.tfrecord-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-5])
    return f"data: {file} is cut off in its record at byte "


def dmlab_packed(root: Path) -> str:
    shutil.rmtree(root / "dmlab")
    (root / "dmlab.tar.gz").write_bytes(b"")
    return f"\nunpack {root}/dmlab.tar.gz, if that is it, to {root}/dmlab-train.tfrecord*"


def dmlab_without_label(root: Path) -> str:
    write_records(root / "dmlab" / "dmlab-test.tfrecord-00000-of-00001", [example_bytes({"image": [b"x"]})])
    return "has no feature filename at byte 12; it has image"


def dmlab_no_example(root: Path) -> str:
    write_records(root / "dmlab" / "dmlab-test.tfrecord-00000-of-00001", [b"\x0b"])
    return "holds no tf.train.Example, or a damaged one, at byte 12; fetch it again"


def dmlab_other_label(root: Path) -> str:
    features = {"image": [b"x"], "filename": [b"a"], "label": [6]}
    write_records(root / "dmlab" / "dmlab-test.tfrecord-00000-of-00001", [example_bytes(features)])
    return "has an image of label 6, should be 0 to 5"


def dmlab_empty(root: Path) -> str:
    write_records(root / "dmlab" / "dmlab-test.tfrecord-00000-of-00001", [])
    return "data.root: no image in dmlab-test.tfrecord-00000-of-00001 of "


def kitti_without_kit(root: Path) -> str:
    shutil.rmtree(root / "kitti" / "mapping")
    return "lacks 2 of 2 parts of KITTI's development kit: mapping/train_mapping.txt, mapping/train_rand.txt\n"


def kitti_label_missing(root: Path) -> str:
    (root / "kitti" / "training" / "label_2" / "000007.txt").unlink()
    return "label_2 holds 19 .txt files, should hold the 20 that "


def kitti_other_line(root: Path) -> str:
    file = root / "kitti" / "training" / "label_2" / "000001.txt"
    replaced(file, "Truck", "Lorry")
    return f"data.root: {file} line 1 is 'Lorry 0.00"


def kitti_short_line(root: Path) -> str:
    file = root / "kitti" / "training" / "label_2" / "000002.txt"
    file.write_text("Car 0.00 0 1.57\n")
    return f"data.root: {file} line 1 is 'Car 0.00 0 1.57', should be a type of Car, Van, Truck"


def kitti_number_too_large(root: Path) -> str:
    file = root / "kitti" / "mapping" / "train_rand.txt"
    file.write_text(file.read_text() + ",21")
    return "train_mapping.txt and train_rand.txt (list index out of range); unpack them again"


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
    return "(ValueError: images of float64, should be of uint8 row by row); fetch it again"


def smallnorb_other_magic(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-dat.mat"
    file.write_bytes(b"\x54\x4c\x3d\x1f" + file.read_bytes()[4:])
    return f"data.root: {file} is no matrix of SmallNORB, or is damaged (ValueError: magic number 0x1f3d4c54)\nfetch"


def smallnorb_magic_of_integers(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['testing']}-dat.mat"
    file.write_bytes(b"\x54\x4c\x3d\x1e" + file.read_bytes()[4:])
    return f"{file} holds an array of (6, 2, 96, 96) int32, should hold image pairs, (n, 2, 96, 96) uint8"


def smallnorb_packed_torn(root: Path) -> str:
    file = root / "smallnorb" / f"{written.SMALLNORB_NAMES['training']}-info.mat.gz"
    file.write_bytes(file.read_bytes()[:-12])
    return f"{file} is no matrix of SmallNORB, or is damaged (EOFError: "


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
        ("clevr_count", clevr_packed),
        ("clevr_count", clevr_scene_without_image),
        ("clevr_count", clevr_torn),
        ("clevr_count", clevr_of_other_form),
        ("dmlab", dmlab_torn),
        ("dmlab", dmlab_packed),
        ("dmlab", dmlab_without_label),
        ("dmlab", dmlab_no_example),
        ("dmlab", dmlab_other_label),
        ("dmlab", dmlab_empty),
        ("kitti", kitti_without_kit),
        ("kitti", kitti_label_missing),
        ("kitti", kitti_other_line),
        ("kitti", kitti_short_line),
        ("kitti", kitti_number_too_large),
        ("dsprites_location", dsprites_torn),
        ("dsprites_location", dsprites_of_other_size),
        ("dsprites_location", dsprites_of_other_type),
        ("smallnorb_azimuth", smallnorb_other_magic),
        ("smallnorb_azimuth", smallnorb_magic_of_integers),
        ("smallnorb_azimuth", smallnorb_packed_torn),
        ("smallnorb_azimuth", smallnorb_other_count),
        ("smallnorb_azimuth", smallnorb_single_images),
        ("smallnorb_azimuth", smallnorb_other_labels),
    ],
)
def test_a_copy_that_is_not_as_published_is_refused(vtab_original, task: str, spoil: Callable[[Path], str]):
    root = vtab_original(task)
    complaint = spoil(root)
    with pytest.raises(ConfigError) as error:
        READERS[task](root)
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


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
    with pytest.raises(ConfigError, match="is no matrix of SmallNORB, or is damaged"):
        release.train.pictures.verify(0)


def test_an_image_that_is_gone_later_is_named(vtab_original):
    root = vtab_original("kitti")
    release = READERS["kitti"](root)
    (root / "kitti" / "training" / "image_2" / "000001.png").unlink()
    position = release.test.pictures.paths.index("kitti/training/image_2/000001.png")
    assert release.test.pictures.name(position).endswith("image_2/000001.png")
    with pytest.raises(FileNotFoundError):
        release.test.pictures.verify(position)
    assert torch.equal(release.test.labels, torch.tensor([1, 1]))
