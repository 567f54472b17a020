"""A label is the class that its own file names so, whatever the order of names in the others."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from vtab_miniatures import parquet

CATS = ("lynx", "manul", "ocelot")


def write(folder: Path, **splits: Sequence[tuple[Sequence[str] | None, Sequence[int | str]]]) -> Path:
    """For each split, the names that each of its files notes, and its labels."""
    for split, written in splits.items():
        for number, (names, labels) in enumerate(written):
            file = folder / f"{split}-{number:05d}-of-{len(written):05d}.parquet"
            parquet(file, labels, names=names, first=10 * number)
    return folder


def named(sets, part) -> list[str]:
    return [sets.classes[label] for label in part.labels.tolist()]


@pytest.mark.parametrize("seed", range(3))
def test_each_file_is_read_by_its_own_order_of_names(make, tmp_path: Path, seed: int):
    chance = random.Random(seed)
    shown: dict[str, list[str]] = {}
    written: dict[str, list] = {}
    for split in ("train", "test"):
        for _ in range(3):
            order = chance.sample(CATS, 3)
            labels = [chance.randrange(3) for _ in range(4)]
            shown.setdefault(split, []).extend(order[label] for label in labels)
            written.setdefault(split, []).append((order, labels))
    sets = make("parquet", path=str(write(tmp_path, **written))).open()
    assert sets.classes == tuple(written["train"][0][0])
    assert named(sets, sets.train) == shown["train"]
    assert named(sets, sets.test) == shown["test"]


def test_labels_and_names_may_stand_beside_each_other(make, tmp_path: Path):
    files = {"train": [(CATS, [0, 2]), (None, ["manul", "lynx"])], "test": [(CATS[::-1], [0]), (None, [0])]}
    sets = make("parquet", path=str(write(tmp_path, **files))).open()
    assert named(sets, sets.train) == ["lynx", "ocelot", "manul", "lynx"]
    assert named(sets, sets.test) == ["ocelot", "lynx"]  # a file without names counts as training does


def test_numbers_are_numbers_where_training_names_no_class(make, tmp_path: Path):
    sets = make("parquet", path=str(write(tmp_path, train=[(None, [0, 1, 2])], test=[(None, [2, 0])]))).open()
    assert (sets.classes, sets.test.labels.tolist()) == (("0", "1", "2"), [2, 0])


def test_classes_that_only_a_test_file_names_matter_where_a_row_shows_one(make, tmp_path: Path):
    other = ("puma", *CATS)
    files = {"train": [(CATS, [0, 1, 2])], "test": [(other, [1, 3])]}
    sets = make("parquet", path=str(write(tmp_path / "a", **files))).open()
    assert named(sets, sets.test) == ["lynx", "ocelot"]
    file = write(tmp_path / "b", **{**files, "test": [(other, [1, 0])]}) / "test-00000-of-00001.parquet"
    with pytest.raises(ConfigError, match=f"data.label: class 'puma' of {file} is not among the 3"):
        make("parquet", path=str(tmp_path / "b")).open()


def test_one_class_is_opened_and_not_learned(make, tmp_path: Path):
    data = make("parquet", path=str(write(tmp_path, train=[(None, ["lynx"] * 4)], test=[(None, ["lynx"])])))
    assert data.open().classes == ("lynx",)
    with pytest.raises(ConfigError, match=r"^data: .* has one class, 'lynx'; at least two are needed"):
        data.check()


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        (
            [(CATS, [0, 1, 2]), (("lynx", "manul", "puma"), [0])],
            "data.label: {here}/train-00001-of-00002.parquet and train-00000-of-00002.parquet name different classes, "
            "such as 'ocelot'; they are of two data sets",
        ),
        ([(("lynx", "lynx"), [0, 1])], "data.label: {here}/train-00000-of-00001.parquet notes its classes as ['lynx',"),
        (
            [((1, 2), [0, 1])],
            "data.label: {here}/train-00000-of-00001.parquet notes its classes as [1, 2], should be a",
        ),
        ([(CATS[:2], [0, 2])], "data.label: class 2 of {here}/train-00000-of-00001.parquet is not among the 2"),
    ],
)
def test_names_that_cannot_be_are_refused(make, tmp_path: Path, train, complaint: str):
    write(tmp_path, train=train, test=[(CATS, [0])])
    with pytest.raises(ConfigError) as error:
        make("parquet", path=str(tmp_path)).open()
    assert str(error.value).startswith(complaint.format(here=tmp_path))
