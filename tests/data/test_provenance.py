"""What every data set's result says of where its images are from."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peft_vision.data.arrays import Arrays
from peft_vision.data.decode import format_of, worded_formats
from peft_vision.data.pictures import Files, labelled
from peft_vision.data.reading import file_sum


def test_arrays_are_not_encoded(make, preprocessing):
    assert make("digits").load(preprocessing).provenance == {"encoding": "unencoded"}


def test_encodings_are_told_by_content_and_counted(make, folder: Path, picture, preprocessing):
    assert make("image_folder", path=str(folder)).load(preprocessing).provenance == {"encoding": "PNG"}
    for name in ("0.png", "3.png"):
        with (folder / "train" / "cat" / name).open("wb") as file:
            picture(7).save(file, "JPEG")
    found = make("image_folder", path=str(folder)).load(preprocessing).provenance
    assert found == {"encoding": "PNG 22, JPEG 2"}  # 18 to train on and validate, 6 to test on


def test_only_images_that_a_run_reads_are_looked_at(make, folder: Path, preprocessing):
    data = make("image_folder", path=str(folder))
    for file in (folder / "train").glob("*/*"):
        file.write_bytes(b"no image")
    assert data.load(preprocessing, read={"test"}).provenance == {"encoding": "PNG"}
    assert data.load(preprocessing, read=frozenset()).provenance == {"encoding": ""}


def test_images_that_are_left_out_do_not_count(make, folder: Path, preprocessing):
    (folder / "train" / "cat" / "0.png").write_bytes(b"\xff\xd8\xff cut off")
    found = make("image_folder", path=str(folder), on_corrupt="skip").load(preprocessing)
    assert (found.skipped, found.provenance) == (1, {"encoding": "PNG"})


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP"])
def test_the_kind_of_a_file_is_told(tmp_path: Path, name: str):
    Image.new("RGB", (4, 4)).save(tmp_path / "x", name)
    assert format_of((tmp_path / "x").read_bytes()) == name


def test_of_many_images_a_hundred_are_looked_at():
    part = labelled(Arrays(np.zeros((1000, 2, 2, 3), np.uint8)), [0] * 1000)
    assert part.sampled(100).indices.tolist() == list(range(0, 1000, 10))
    few = part.subset(torch.arange(100))
    assert few.sampled(100) is few


def test_no_image_has_no_encoding():
    assert worded_formats(Counter()) == ""


def test_contents_are_those_of_the_pictures_in_their_order(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    part = labelled(Files(tmp_path, ["a", "b"]), [0, 1]).subset(torch.tensor([1, 0]))
    assert list(part.contents()) == [b"b", b"a"]


def test_files_of_one_name_have_each_their_sum(make, folder: Path, tmp_path: Path, preprocessing):
    for split, pictures in {"train": ("0", "1", "2", "3"), "val": ("4",), "test": ("5",)}.items():
        rows = [f"{name}/{number}.png,{name}" for name in ("cat", "dog") for number in pictures]
        (tmp_path / split).mkdir()
        (tmp_path / split / "labels.csv").write_text("\n".join(["path,label", *rows]))
    tables = {split: str(tmp_path / split / "labels.csv") for split in ("train", "val", "test")}
    columns = {"image_column": "path", "label_columns": ["label"], "root": str(folder / "train")}
    found = make("table", **tables, **columns).load(preprocessing).provenance
    assert {name for name in found if "labels" in name} == {f"{split}/labels.csv" for split in tables}


def test_checksums_are_sha256(tmp_path: Path):
    (tmp_path / "list.txt").write_bytes(b"abc")
    found = file_sum(tmp_path / "list.txt")
    assert found == "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
