import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.fmow import read_table
from shift_miniatures import BETWEEN, CATEGORIES, NEW, OLD, fmow, shown, world


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return fmow(tmp_path_factory.mktemp("sets") / "fmow_v1.1", world())


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return shutil.copytree(published, tmp_path / "fmow_v1.1")


def test_a_region_is_trained_chosen_and_tested_on_by_the_splits_of_wilds(make, published: Path, preprocessing):
    splits = make("fmow", path=str(published)).load(preprocessing)
    assert {name: len(images) for name, images in splits.parts().items()} == {"train": 6, "val": 8, "test": 8}
    assert splits.source == (
        "fmow Americas: 6 train + 8 val + 8 test images of 4 classes, 1 of them without a training image; "
        "WILDS' splits train, id_val and id_test"
    )


def test_classes_are_all_categories_in_order_whether_or_not_the_region_has_them(make, published: Path):
    sets = make("fmow", path=str(published)).open()
    assert sets.classes == CATEGORIES
    assert torch.bincount(sets.train.labels, minlength=4).tolist() == [2, 2, 2, 0]
    assert torch.bincount(sets.test.labels).tolist() == [2, 2, 2, 2]


def test_image_numbers_are_rows_of_the_csv_sequestered_ones_counted(make, published: Path):
    sets = make("fmow", path=str(published), regions=["Africa", "Europe"]).open()
    rows = [f"images/rgb_img_{i}.png" for i, row in enumerate(world()) if row[0] == "train" and row[2:] == ("FRA", OLD)]
    assert sets.train.pictures.paths[-4:] == rows
    for part in (sets.train, sets.val, sets.test):
        assert part.labels.tolist() == shown(part)


def test_regions_are_chosen_by_name_whatever_the_order_of_the_csv(make, tmp_path: Path):
    shown_in = {"Americas": ("USA", "zoo"), "Africa": ("KEN", "barn"), "Europe": ("FRA", "airport")}
    splits = ("train", "val", "test")
    rows = [(split, category, country, OLD) for country, category in shown_in.values() for split in splits]
    for name, order in (("forwards", rows), ("backwards", rows[::-1])):
        folder = fmow(tmp_path / name, order)
        for region, (_, category) in shown_in.items():
            sets = make("fmow", path=str(folder), regions=[region]).open()
            assert [sets.classes[label] for label in sets.train.labels] == [category]


def test_countries_without_a_region_are_other(make, published: Path):
    sets = make("fmow", path=str(published), regions=["Other"]).open()
    assert len(sets.train) == 2 * len(CATEGORIES)  # the Antarctic, and a country that the mapping lacks


@pytest.mark.parametrize(
    ("split", "timestamp", "expected"),
    [
        ("train", "2012-12-31T23:59:59Z", "train"),
        ("train", "2013-01-01T00:00:00Z", None),
        ("train", "2016-01-01T00:00:00Z", None),
        ("val", "2012-12-31T23:59:59.999Z", "id_val"),
        ("val", "2013-01-01T00:00:00Z", "val"),
        ("val", "2015-12-31T23:59:59Z", "val"),
        ("val", "2016-01-01T00:00:00Z", None),
        ("test", "2012-12-31T23:59:59Z", "id_test"),
        ("test", "2013-01-01T00:00:00Z", None),
        ("test", "2015-12-31T23:59:59Z", None),
        ("test", "2016-01-01T00:00:00Z", "test"),
        ("test", "2015-12-31T23:00:00-02:00", "test"),
        ("seq", "2010-01-01T00:00:00Z", None),
        ("seq", "2016-01-01T00:00:00Z", None),
    ],
)
def test_years_in_utc_decide_the_split(tmp_path: Path, split: str, timestamp: str, expected: str | None):
    folder = fmow(tmp_path / "fmow_v1.1", [(split, "zoo", "USA", timestamp)])
    assert [row.split for row in read_table(folder, prefix="").rows] == [expected]


def test_every_row_is_in_one_split_or_none(published: Path):
    rows = read_table(published, prefix="").rows
    assert [row.image for row in rows] == list(range(len(world())))
    counts = Counter(row.split for row in rows)
    assert counts["id_val"] == counts["id_test"] == counts["val"] == counts["test"] == 7 * 4
    assert counts["train"] == 7 * 4 - 2


def test_a_train_size_counts_the_classes_that_can_be_drawn(make, published: Path):
    parts = make("fmow", path=str(published), train_size=3)._divide()[1]
    assert torch.bincount(parts["train"].labels, minlength=4).tolist() == [1, 1, 1, 0]
    with pytest.raises(ConfigError, match=r"data.train_size: got 2; fmow Americas has 3 classes and 6 labelled images"):
        make("fmow", path=str(published), train_size=2).check()


def test_a_class_that_loses_its_training_images_is_refused(make, folder: Path, preprocessing):
    sets = make("fmow", path=str(folder)).open()
    for path, label in zip(sets.train.pictures.paths, sets.train.labels.tolist(), strict=True):
        if CATEGORIES[label] == "barn":
            (folder / path).write_text("no picture")
    with pytest.raises(ConfigError, match=r"data: no training image of class 'barn'$"):
        make("fmow", path=str(folder), on_corrupt="skip").load(preprocessing)


def rewrite(folder: Path, old: str, new: str, file: str = "rgb_metadata.csv") -> Path:
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder / file


def no_folder(folder: Path) -> str:
    shutil.rmtree(folder)
    files = "RELEASE_v1.1.txt, rgb_metadata.csv, country_code_mapping.csv, ..."
    return f"4 parts of FMoW-WILDS v1.1: {files}\nFMoW-WILDS v1.1 (54 GB packed) is at wilds.stanford.edu/downloads; "


def other_release(folder: Path) -> str:
    (folder / "RELEASE_v1.1.txt").rename(folder / "RELEASE_v1.0.txt")
    return f"data.path: {folder} lacks 1 of 4 parts of FMoW-WILDS v1.1: RELEASE_v1.1.txt\n"


def no_release(folder: Path) -> str:
    (folder / "RELEASE_v1.1.txt").unlink()
    return f"data.path: {folder} lacks 1 of 4 parts of FMoW-WILDS v1.1: RELEASE_v1.1.txt\n"


def no_mapping(folder: Path) -> str:
    (folder / "country_code_mapping.csv").unlink()
    return f"data.path: {folder} lacks 1 of 4 parts of FMoW-WILDS v1.1: country_code_mapping.csv\n"


def no_images(folder: Path) -> str:
    shutil.rmtree(folder / "images")
    return f"data.path: {folder} lacks 1 of 4 parts of FMoW-WILDS v1.1: images\n"


def no_first_image(folder: Path) -> str:
    (folder / "images" / "rgb_img_0.png").unlink()
    return f"data.path: {folder} lacks 1 of 1 parts of FMoW-WILDS v1.1: images/rgb_img_0.png\n"


def no_time(folder: Path) -> str:
    file = rewrite(folder, "timestamp", "taken")
    return (
        f"data.path: {file} has the columns category, split, lat, lon, country_code, cloud_cover, taken; "
        "those of v1.1 hold split, category, country_code, timestamp"
    )


def no_region(folder: Path) -> str:
    file = rewrite(folder, "region,", "continent,", "country_code_mapping.csv")
    return f"data.path: {file} has the columns name, alpha-2, alpha-3,"


def empty_csv(folder: Path) -> str:
    (folder / "rgb_metadata.csv").write_text("")
    return f"data.path: {folder}/rgb_metadata.csv has the columns (none); those"


def header_only(folder: Path) -> str:
    text = (folder / "rgb_metadata.csv").read_text()
    (folder / "rgb_metadata.csv").write_text(text.splitlines()[0])
    return f"data.path: {folder}/rgb_metadata.csv ends before the row of rgb_img_0.png; fetch it again"


def unknown_split(folder: Path) -> str:
    file = rewrite(folder, "airport,train", "airport,training")
    return f"data.path: {file} line 4 has split 'training', should be one of train, val, test, seq"


def no_timestamp(folder: Path) -> str:
    file = rewrite(folder, OLD, "May 2010")
    return f"data.path: {file} line 2 has timestamp 'May 2010', should be like 2016-02-05T19:15:47Z"


def time_of_no_zone(folder: Path) -> str:
    return f"{rewrite(folder, OLD, OLD[:-1])} line 2 has timestamp '{OLD[:-1]}'"


def cut_short(folder: Path) -> str:
    text = (folder / "rgb_metadata.csv").read_text()
    (folder / "rgb_metadata.csv").write_text(text[:-40])
    return f"line {len(world()) + 1} has 2 values, should have 7"


def unknown_region(folder: Path) -> str:
    file = rewrite(folder, "Americas", "America", "country_code_mapping.csv")
    known = "Africa, Americas, Asia, Europe, Oceania"
    return f"data.path: {file} has USA in region 'America', should be one of {known}"


def no_text(folder: Path) -> str:
    (folder / "country_code_mapping.csv").write_bytes(b"\xff\xfe\x00")
    return f"data.path: cannot read {folder}/country_code_mapping.csv"


@pytest.mark.parametrize(
    "spoil",
    [
        no_folder,
        other_release,
        no_release,
        no_mapping,
        no_images,
        no_first_image,
        no_time,
        no_region,
        empty_csv,
        header_only,
        unknown_split,
        no_timestamp,
        time_of_no_zone,
        cut_short,
        unknown_region,
        no_text,
    ],
)
def test_a_copy_that_is_not_as_published_is_refused(make, folder: Path, spoil):
    complaint = spoil(folder)
    with pytest.raises(ConfigError) as error:
        make("fmow", path=str(folder)).check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_a_region_without_an_image_in_a_split_is_refused(make, tmp_path: Path):
    rows = [("train", "zoo", "USA", OLD), ("val", "zoo", "USA", OLD), ("test", "zoo", "KEN", OLD)]
    folder = fmow(tmp_path / "fmow_v1.1", [*rows, ("val", "zoo", "FRA", BETWEEN), ("test", "zoo", "FRA", NEW)])
    with pytest.raises(ConfigError, match=r"^data.regions: no image of Americas in split id_test; it has Africa$"):
        make("fmow", path=str(folder)).check()


@pytest.mark.parametrize("regions", [["America"], []])
def test_wrong_regions_are_refused_by_name(make, regions: list[str]):
    with pytest.raises(ConfigError, match=r"data\.regions"):
        make("fmow", regions=regions)
