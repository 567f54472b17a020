"""Data of the user's own from elsewhere, read as those of the run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask_miniatures import CLASSES, VOID, drawn, masked
from peft_vision.core.composition import option
from peft_vision.core.config import ConfigError
from peft_vision.ood.base import Shift
from peft_vision.ood.elsewhere import Elsewhere
from shift_miniatures import make_ood
from vtab_miniatures import parquet

HEAD = "image,red,height,part"


@pytest.fixture
def streets(tmp_path: Path) -> dict:
    """The options of a run's own masks."""
    return option("data", "masks") | {"path": str(tmp_path / "day"), "classes": list(CLASSES), "ignore": [VOID]}


def elsewhere(data: dict, path: object, **others: object) -> Elsewhere:
    return make_ood("elsewhere", data=data, path=path, **others)


def table(file: Path, rows: list[str]) -> str:
    """A table of grey pictures beside it, as many as its rows."""
    for row in rows:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file.parent / row.split(",")[0])
    file.write_text("\n".join([HEAD, *rows]))
    return str(file)


def only(shifts: dict[str, Shift]) -> Shift:
    (shift,) = shifts.values()
    return shift


def test_every_row_of_a_table_is_scored_in_its_order_whatever_part_it_names(tmp_path):
    path = table(tmp_path / "night.csv", [f"{number}.png,{number % 2},{number},test" for number in range(10)])
    own = {"labels_are": "numbers", "label_columns": ["height"], "split_column": "part"}
    data = option("data", "table") | {"path": "day.csv", **own}
    shift = only(elsewhere(data, path).open())
    assert shift.classes == ("height",)
    assert shift.labelled.labels.flatten().tolist() == list(range(10))
    assert [shift.labelled.pictures.name(index) for index in shift.labelled.indices.tolist()] == [
        str(tmp_path / f"{number}.png") for number in range(10)
    ]


def test_a_run_with_a_table_for_each_split_is_scored_on_one_table(tmp_path):
    data = option("data", "table") | {"train": "train.csv", "test": "test.csv", "label_columns": ["red"]}
    path = table(tmp_path / "night.csv", [f"{number}.png,{'yes' if number < 4 else 'no'},0,-" for number in range(10)])
    shift = only(elsewhere(data, path).open())
    assert shift.classes == ("no", "yes")
    assert shift.labelled.labels.tolist() == [1] * 4 + [0] * 6


def test_a_table_of_one_picture_is_scored(tmp_path):
    data = option("data", "table") | {"path": "day.csv", "labels_are": "numbers", "label_columns": ["height"]}
    shift = only(elsewhere(data, table(tmp_path / "night.csv", ["a.png,0,7,-"])).open())
    assert shift.labelled.labels.tolist() == [[7.0]]


def test_a_shift_may_have_one_class_alone(tmp_path):
    tabular = option("data", "table") | {"path": "day.csv", "label_columns": ["red"]}
    of_table = only(elsewhere(tabular, table(tmp_path / "night.csv", ["a.png,yes,0,-", "b.png,yes,0,-"])).open())
    assert (of_table.classes, of_table.labelled.labels.tolist()) == (("yes",), [0, 0])
    (tmp_path / "night" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "night" / "cat" / "a.png")
    of_folder = only(elsewhere(option("data", "image_folder") | {"path": "day"}, str(tmp_path / "night")).open())
    assert (of_folder.classes, of_folder.labelled.labels.tolist()) == (("cat",), [0])


def test_parquet_files_keep_the_names_of_their_splits(tmp_path):
    for split, labels in {"train": ["cat", "dog"], "test": ["dog"]}.items():
        parquet(tmp_path / f"{split}-00000-of-00001.parquet", labels)
    shift = only(elsewhere(option("data", "parquet") | {"path": "day"}, str(tmp_path)).open())
    assert (shift.classes, shift.labelled.labels.tolist()) == (("cat", "dog"), [1])


def test_of_masks_that_are_divided_the_test_split_is_scored_else_every_picture(streets, tmp_path):
    divided = masked(tmp_path / "divided", {"train": 5, "val": 3, "test": 4})
    untested = masked(tmp_path / "untested", {"train": 5, "val": 3})
    drawn(tmp_path / "loose", "images", "masks", names=[f"{number:02d}" for number in range(6)])
    paths = {"divided": str(divided), "untested": str(untested), "loose": str(tmp_path / "loose")}
    found = elsewhere(streets, paths).open()
    assert {name: len(shift.labelled) for name, shift in found.items()} == {"divided": 4, "untested": 8, "loose": 6}
    assert {shift.labelled.labels_are for shift in found.values()} == {"masks"}
    test = found["divided"].labelled
    assert {Path(test.pictures.name(index)).parts[-3] for index in test.indices.tolist()} == {"test"}


def test_what_is_different_there_is_an_option(streets, tmp_path):
    drawn(tmp_path / "night", "photos", "labels", names=["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"^path: .*night"):
        elsewhere(streets, str(tmp_path / "night")).check()
    other = elsewhere(streets, str(tmp_path / "night"), options={"images": "photos", "masks": "labels"})
    assert len(only(other.open()).labelled) == 3


def test_a_path_that_is_not_there_is_named_by_its_key(streets, tmp_path):
    with pytest.raises(ConfigError, match=rf"^path\.night: no folder {tmp_path}/night$"):
        elsewhere(streets, {"night": str(tmp_path / "night")}).check()


def test_data_without_a_path_have_nothing_elsewhere():
    with pytest.raises(ConfigError, match=r"^path: the run's data are not read from a path"):
        elsewhere(option("data", "digits"), "night").check()
