"""Pictures that are in two splits."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peft_vision.core.preprocessing import Preprocessing
from peft_vision.data.arrays import Arrays
from peft_vision.data.base import Data
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.sequences import Joined, Pictures
from peft_vision.data.twins import Twins, find_twins, worded

GIVEN = {"val_fraction": 0.0, "workers": 2}


def counted(data: Data, preprocessing: Preprocessing) -> dict[str, int] | None:
    return data.load(preprocessing).twin_counts


def test_copies_of_training_pictures_are_counted_and_named(make, folder: Path, preprocessing):
    shutil.copy(folder / "train" / "cat" / "3.png", folder / "test" / "cat" / "copy.png")
    shutil.copy(folder / "train" / "cat" / "3.png", folder / "test" / "dog" / "again.png")
    (folder / "test" / "bird" / "link.png").symlink_to(folder / "train" / "bird" / "0.png")
    splits = make("image_folder", path=str(folder), **GIVEN).load(preprocessing)
    assert splits.twins == {"test in train": Twins(3, f"{folder}/test/bird/link.png")}
    assert splits.twin_counts == {"test in train": 3}


def test_every_pair_of_splits_is_compared(make, folder: Path, preprocessing):
    shutil.copytree(folder / "test", folder / "val")
    shutil.copy(folder / "train" / "cat" / "3.png", folder / "val" / "cat" / "3.png")
    found = counted(make("image_folder", path=str(folder), **GIVEN), preprocessing)
    assert found == {"val in train": 1, "test in val": 6}


def test_splits_without_twins_have_none(make, folder: Path, preprocessing):
    assert counted(make("image_folder", path=str(folder), **GIVEN), preprocessing) == {}


def test_a_drawn_split_that_copies_went_to_is_seen(make, folder: Path, preprocessing):
    for label in ("bird", "cat", "dog"):
        for number in range(6):
            path = folder / "train" / label / f"{number}.png"
            shutil.copy(path, path.with_name(f"{number} (copy).png"))
    data = make("image_folder", path=str(folder / "train"), test_fraction=0.5, **GIVEN)
    train, test = ([path_bytes(part, index) for index in part.indices] for part in data.parts().values())
    copies = sum(content in train for content in test)
    assert copies > 0
    assert counted(data, preprocessing) == {"test in train": copies}


def path_bytes(part: Labelled, index: torch.Tensor) -> bytes:
    return (part.pictures.root / part.pictures.paths[int(index)]).read_bytes()


def test_the_test_images_that_validate_by_request_are_no_twins(make, folder: Path, preprocessing):
    assert counted(make("image_folder", path=str(folder), stage="peek", **GIVEN), preprocessing) == {}


def test_corrupt_pictures_are_no_twins(make, folder: Path, preprocessing):
    for split in ("train", "test"):
        (folder / split / "cat" / "broken.png").write_bytes(b"no picture")
    assert counted(make("image_folder", path=str(folder), on_corrupt="skip", **GIVEN), preprocessing) == {}


def test_equal_lengths_and_middles_are_no_twins_until_all_is_equal(tmp_path: Path, monkeypatch):
    content = bytearray(b"0" * 1000)
    (tmp_path / "a").write_bytes(content)
    content[0] = 1
    (tmp_path / "b").write_bytes(content)
    content[500] = 1
    (tmp_path / "c").write_bytes(content)
    (tmp_path / "d").write_bytes(b"short")
    (tmp_path / "e").write_bytes(b"shorter")
    read: list[str] = []
    whole = Files.content

    def watched(self, index):
        read.append(self.paths[index])
        return whole(self, index)

    monkeypatch.setattr(Files, "content", watched)
    files = {name: labelled(Files(tmp_path, list(names)), [0] * len(names)) for name, names in SPLITS.items()}
    assert find_twins(files, threads=1) == {}
    assert sorted(read) == ["a", "b"]  # which differ in the first byte alone


SPLITS = {"train": "ad", "test": "bce"}


def arrays(*keys: int) -> Labelled:
    images = np.stack([np.random.default_rng(key).integers(0, 256, (8, 8, 3), dtype=np.uint8) for key in keys])
    return labelled(Arrays(images), [0] * len(keys))


def test_arrays_are_compared_too_and_several_sets_joined():
    parts = {"train": arrays(1, 2).joined(arrays(3)), "val": arrays(4, 3), "test": arrays(2, 2, 4, 5)}
    assert isinstance(parts["train"].pictures, Joined)
    found = find_twins(parts, threads=2)
    assert {pair: twins.count for pair, twins in found.items()} == {
        "val in train": 1,
        "test in train": 2,
        "test in val": 1,
    }


def test_pictures_whose_bytes_are_not_at_hand_are_not_compared():
    class Distant(Arrays):
        length = Pictures.length

    assert find_twins({"train": arrays(1), "test": labelled(Distant(np.zeros((1, 8, 8, 3))), [0])}, threads=1) is None
    assert find_twins({"test": arrays(1)}, threads=1) is None


@pytest.mark.parametrize(
    ("twins", "said"),
    [
        ({}, []),
        ({"test in train": 1}, ["1 test image is among the train images too"]),
        (
            {"val in train": 2, "test in val": 1234},
            ["2 val images are among the train images too", "1,234 test images are among the val images too"],
        ),
    ],
)
def test_twins_in_words(twins, said):
    assert worded(twins) == said


def test_parquet_files_are_compared_by_what_is_encoded(make, tmp_path: Path, picture, preprocessing):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def encoded(key: int) -> dict:
        path = tmp_path / "picture.png"
        picture(key).save(path)
        return {"bytes": path.read_bytes(), "path": None}

    for split, keys in (("train", (0, 1, 2, 3)), ("test", (3, 4, 5, 0))):
        rows = {"image": [encoded(key) for key in keys], "label": [0, 1, 0, 1]}
        parquet.write_table(pa.table(rows), tmp_path / f"{split}-00000-of-00001.parquet")
    data = make("parquet", path=str(tmp_path), val_fraction=0.0, workers=1)
    assert counted(data, preprocessing) == {"test in train": 2}


def test_tiny_pictures_have_a_middle(tmp_path: Path):
    Image.new("RGB", (1, 1)).save(tmp_path / "a.ppm")
    (tmp_path / "b.ppm").write_bytes((tmp_path / "a.ppm").read_bytes())
    files = Files(tmp_path, ["a.ppm", "b.ppm"])
    assert files.length(0) < 128
    assert files.middle(0) == files.middle(1) == (tmp_path / "a.ppm").read_bytes()
