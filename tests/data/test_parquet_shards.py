"""A split is one whole set of parquet files."""

from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.parquet import split_files


def write(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"PAR1" + bytes([number]))


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
        ("train-00000-of-00002-a1b2.parquet", "train-00001-of-00002-c3d4.parquet"),  # as the hub once named them
        ("train-0-of-2.parquet", "train-1-of-2.parquet"),
        ("train/0000.parquet", "train/0001.parquet"),
        ("train.parquet",),
        ("train/2019.parquet", "train/2021.parquet"),  # years, and no numbers of files
        ("train.cats.parquet", "train.dogs.parquet"),
    ],
)
def test_a_whole_set_is_taken_in_order(names: tuple[str, ...], tmp_path: Path):
    write(tmp_path, *names, "test-00000-of-00001.parquet")
    assert split_files(tmp_path, "train", key="k") == [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (
            ("train-00000-of-00003.parquet", "train-00002-of-00003.parquet"),
            "2 of 3 files of split 'train' are in {here}; fetch the rest, such as train-00001-of-00003.parquet",
        ),
        (
            ("train-1-of-2.parquet",),
            "1 of 2 files of split 'train' are in {here}; fetch the rest, such as train-0-of-2.",
        ),
        (
            ("train-00000-of-99999.parquet",),
            "1 of 99,999 files of split 'train' are in {here}; fetch the rest, such as train-00001-of-99999.parquet",
        ),
        (
            ("train/0000.parquet", "train/0002.parquet"),
            "2 of 3 files of split 'train' are in {here}/train; fetch the rest, such as 0001.parquet",
        ),
        (
            ("train-00000-of-00002.parquet", "train-00001-of-00003.parquet", "train-00002-of-00003.parquet"),
            "split 'train' in {here} is of 2 sets: train-00000-of-00002.parquet, train-00001-of-00003.parquet; keep",
        ),
        (
            ("train-00000-of-00001.parquet", "train.parquet"),
            "split 'train' in {here} is of 2 sets: train-00000-of-00001.parquet, train.parquet; keep the files of one",
        ),
        (
            ("train-clean-00000-of-00001.parquet", "train-other-00000-of-00001.parquet"),
            "split 'train' in {here} is of 2 sets: train-clean-00000-of-00001.parquet, train-other-00000-of-00001.",
        ),
        (
            ("train-00000-of-00001 (1).parquet", "train-00000-of-00001.parquet"),
            "split 'train' in {here} has a file twice: train-00000-of-00001 (1).parquet, train-00000-of-00001.parquet",
        ),
        (
            ("train-00000-of-00001-a1b2.parquet", "train-00000-of-00001-c3d4.parquet"),
            "split 'train' in {here} has a file twice: train-00000-of-00001-a1b2.parquet, train-00000-of-00001-c3d4.",
        ),
        (("train-00000-of-00001.parquet", "train-00001-of-00001.parquet"), "{here}/train-00001-of-00001.parquet has a"),
    ],
)
def test_a_part_or_a_mixture_is_refused(names: tuple[str, ...], complaint: str, tmp_path: Path):
    write(tmp_path, *names)
    with pytest.raises(ConfigError) as error:
        split_files(tmp_path, "train", key="k")
    assert str(error.value).startswith(f"k: {complaint.format(here=tmp_path)}")


def test_a_copy_under_another_name_is_refused(tmp_path: Path):
    write(tmp_path, "train.parquet", "train other.parquet")
    assert len(split_files(tmp_path, "train", key="k")) == 2
    (tmp_path / "train copy.parquet").write_bytes((tmp_path / "train.parquet").read_bytes())
    with pytest.raises(ConfigError, match=f"k: {tmp_path}/train.parquet is a copy of train copy.parquet; keep one"):
        split_files(tmp_path, "train", key="k")


def test_what_programs_leave_behind_is_no_part_of_a_split(tmp_path: Path):
    write(tmp_path, "data/train.parquet", "data/._train.parquet", ".cache/train.parquet", "__MACOSX/data/train.parquet")
    (tmp_path / "data" / "again").symlink_to(tmp_path)
    assert split_files(tmp_path, "train", key="k") == [tmp_path / "data" / "train.parquet"]
