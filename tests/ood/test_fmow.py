from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.ood.match import matched
from shift_miniatures import CATEGORIES, NEW, OLD, fmow, make_ood, shown, world


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return fmow(tmp_path_factory.mktemp("sets") / "fmow_v1.1", world())


def test_each_region_is_a_shift(published: Path):
    ood = make_ood("fmow", path=str(published))
    ood.check()
    assert {region: len(shift.labelled) for region, shift in ood.open().items()} == {"Africa": 4, "Europe": 4}


@pytest.mark.parametrize("split", ["id_val", "id_test", "val", "test"])
def test_an_image_lands_on_its_class_in_the_run(published: Path, split: str):
    ood = make_ood("fmow", path=str(published), split=split, regions=["Africa", "Americas", "Other"])
    classes = ("zoo", "airport", "port", "multi-unit_residential", "barn")
    for region, shift in ood.open().items():
        found = matched(shift, ood, classes, where=f"ood.fmow.{region}")
        labels = found.labelled.labels.tolist()
        assert [classes[label] for label in labels] == [CATEGORIES[place] for place in shown(found.labelled)]
        assert found.missing == ("port",)


def test_shifts_follow_the_names_of_regions_and_not_the_order_of_the_csv(tmp_path: Path):
    rows = [("test", "zoo", "FRA", NEW), ("seq", "barn", "KEN", NEW), ("test", "airport", "KEN", NEW)]
    for name, order in (("forwards", rows), ("backwards", rows[::-1])):
        shifts = make_ood("fmow", path=str(fmow(tmp_path / name, order)), split="test").open()
        assert {region: [CATEGORIES[place] for place in shown(shift.labelled)] for region, shift in shifts.items()} == {
            "Africa": ["airport"],
            "Europe": ["zoo"],
        }


def test_a_region_without_an_image_in_the_split_is_refused(tmp_path: Path):
    folder = fmow(tmp_path / "fmow_v1.1", [("test", "zoo", "FRA", OLD), ("test", "zoo", "KEN", NEW)])
    with pytest.raises(ConfigError, match=r"^regions: no image of Africa in split id_test; it has Europe$"):
        make_ood("fmow", path=str(folder)).open()


def test_a_set_that_is_not_there_is_refused_with_where_it_comes_from(tmp_path: Path):
    with pytest.raises(
        ConfigError,
        match=r"^path: no folder .*, which should hold 4 parts of FMoW-WILDS v1.1: .*\n.* \(54 GB packed\) is at ",
    ):
        make_ood("fmow", path=str(tmp_path / "fmow_v1.1")).check()


def test_checking_reads_no_table(published: Path, monkeypatch):
    monkeypatch.setattr("csv.reader", None)
    make_ood("fmow", path=str(published)).check()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"regions": ["Africa", "Antarctica"]},
            "ood.fmow.regions.1: got 'Antarctica', should be 'Africa', 'Americas', ",
        ),
        ({"regions": []}, "ood.fmow.regions: got"),
        ({"split": "train"}, "ood.fmow.split: got 'train', should be 'id_val', 'id_test', 'val' or 'test'"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict, complaint: str):
    with pytest.raises(ConfigError) as error:
        make_ood("fmow", **values)
    assert complaint in str(error.value)
