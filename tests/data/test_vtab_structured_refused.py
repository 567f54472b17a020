"""Copies of structured tasks that are not as they were published, and what the user is told."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vtab_originals_miniatures as written
from peft_vision.data.vtab.raw.table import READERS
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
    return "images/val lacks 1 of 2 images of CLEVR_val_scenes.json: CLEVR_val_000001.png\nunpack it again"


def clevr_torn(root: Path) -> str:
    file = root / "CLEVR_v1.0" / "scenes" / "CLEVR_train_scenes.json"
    file.write_text(file.read_text()[:-40])
    return f"data.root: cannot read {file} (JSONDecodeError: "


def clevr_of_other_form(root: Path) -> str:
    (root / "CLEVR_v1.0" / "scenes" / "CLEVR_train_scenes.json").write_text('{"questions": []}')
    return "CLEVR_train_scenes.json (TypeError: "


def clevr_changed(old: str, new: str, complaint: str) -> Callable[[Path], str]:
    def spoil(root: Path) -> str:
        file = root / "CLEVR_v1.0" / "scenes" / "CLEVR_train_scenes.json"
        replaced(file, old, new)
        return f"{file} {complaint}"

    return spoil


def kitti_changed(line: str, complaint: str) -> Callable[[Path], str]:
    def spoil(root: Path) -> str:
        file = root / "kitti" / "training" / "label_2" / "000002.txt"
        file.write_text(line)
        return f"data.root: {file} {complaint}"

    return spoil


def kitti_order(text: str, complaint: str) -> Callable[[Path], str]:
    def spoil(root: Path) -> str:
        file = root / "kitti" / "mapping" / "train_rand.txt"
        file.write_text(text)
        return f"{file} {complaint}"

    return spoil


def kitti_few_videos(root: Path) -> str:
    file = root / "kitti" / "mapping" / "train_mapping.txt"
    file.write_text("2011_09_26 2011_09_26_drive_0001_sync 0000000000\n" * 20)
    return f"{file} names 1 videos, too few to train, validate and test on"


def dmlab_twice(root: Path) -> str:
    file = root / "dmlab" / "dmlab-test.tfrecord-00000-of-00001"
    file.write_bytes(file.read_bytes() * 2)
    return f"data.root: {file} holds test_0.jpg a second time; fetch it again"


def dmlab_label_of_no_number(root: Path) -> str:
    features = {"image": [b"x"], "filename": [b"a"], "label": [1.0]}
    file = write_records(root / "dmlab" / "dmlab-test.tfrecord-00000-of-00001", [example_bytes(features)])
    return f"cannot read {file} (ValueError: label is no whole number), should be records with a filename and a label"


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
    return f"data.root: {file} holds 1 to 21, should be lines of {file.with_name('train_mapping.txt')}, 1 to 20\nunpack"


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        ("clevr_count", clevr_packed),
        ("clevr_count", clevr_scene_without_image),
        ("clevr_count", clevr_torn),
        ("clevr_count", clevr_of_other_form),
        (
            "clevr_distance",
            clevr_changed("7.5", "NaN", "(ValueError: pixel_coords of CLEVR_train_000001.png that are no"),
        ),
        (
            "clevr_distance",
            clevr_changed("7.5", "1e400", "(ValueError: pixel_coords of CLEVR_train_000001.png that are"),
        ),
        (
            "clevr_distance",
            clevr_changed("7.5", '"7"', "(ValueError: objects of CLEVR_train_000001.png without pixel_c"),
        ),
        ("clevr_count", clevr_changed("_000003.png", "_000002.png", "names CLEVR_train_000002.png a second time")),
        ("clevr_count", clevr_changed("CLEVR_train_000003.png", "../a.png", "(ValueError: image_filename '../a.png')")),
        ("dmlab", dmlab_twice),
        ("dmlab", dmlab_label_of_no_number),
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
        ("kitti", kitti_changed(f"Car {written._BOX} 0.0 1.5 nan 0.1", "line 1 is 'Car")),
        ("kitti", kitti_changed(f"Car {written._BOX} 0.0 1.5 far 0.1", "line 1 is 'Car")),
        ("kitti", kitti_changed("", "is empty, should be lines of objects")),
        ("kitti", kitti_order("1,2,0", "holds 0 to 2, should be lines of")),
        ("kitti", kitti_order("1,2,1", "names 1 a second time")),
        ("kitti", kitti_order("1,2,b", "(ValueError: invalid literal for int() with base 10: 'b'), should be whole")),
        ("kitti", kitti_few_videos),
    ],
)
def test_a_copy_that_is_not_as_published_is_refused(refused_original, task: str, spoil: Callable[[Path], str]):
    complaint, said = refused_original(task, spoil)
    assert complaint in said
    assert len(said.splitlines()) <= 2


def test_an_image_that_is_gone_later_is_named(vtab_original):
    root = vtab_original("kitti")
    release = READERS["kitti"](root)
    (root / "kitti" / "training" / "image_2" / "000001.png").unlink()
    position = release.test.pictures.paths.index("kitti/training/image_2/000001.png")
    assert release.test.pictures.name(position).endswith("image_2/000001.png")
    with pytest.raises(FileNotFoundError):
        release.test.pictures.verify(position)
    assert torch.equal(release.test.labels, torch.tensor([1, 1]))
