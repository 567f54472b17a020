"""data=table: paths and labels of pictures in the columns of a file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.divide import with_test_part
from peft_vision.data.pictures import Labelled
from peft_vision.data.table import ImageTable
from peft_vision.testing import check_data


@pytest.fixture
def table(tmp_path: Path, picture):
    """`table(text, 5)`: a table of this text beside images/0.png to images/4.png."""

    def written(text: str, count: int, name: str = "table.csv") -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        for place in range(count):
            picture(place).save(tmp_path / "images" / f"{place}.png")
        (tmp_path / name).write_bytes(text.encode())
        return tmp_path / name

    return written


def rows(values, header: str = "image,label") -> str:
    return "\n".join([header, *(f"images/{place}.png,{value}" for place, value in enumerate(values))])


def names(part: Labelled) -> list[str]:
    return [Path(part.pictures.name(index)).name for index in part.indices.tolist()]


CLASSES = ["dog", "cat", "cat", "dog", "cat", "dog", "dog", "cat", "cat", "dog"]


def test_a_column_of_classes_and_one_of_splits(make, table, preprocessing):
    values = ["dog,train", "cat,Training", "cat,valid", "dog,TEST", "cat,test"]
    path = table(rows(values, "image,label,split"), 5)
    data = make("table", path=str(path), split_column="split")
    sets = data.open()
    assert (sets.classes, sets.labels_are) == (("cat", "dog"), "classes")
    assert [part.labels.tolist() for part in (sets.train, sets.val, sets.test)] == [[1, 0], [0], [1, 0]]
    splits = data.load(preprocessing)
    (pixels, labels), *_ = splits.test.batches([torch.tensor([1, 0])], seed=None, workers=0)
    assert (pixels.shape, labels.tolist()) == ((2, 3, 16, 16), [0, 1])
    assert splits.provenance["source"] == "table"
    assert splits.provenance["table.csv"].startswith("sha256 ")


def test_an_undivided_table_has_a_test_part_drawn(make, table):
    path = table(rows(CLASSES), 10)
    sets = with_test_part(make("table", path=str(path)).open())
    assert [len(sets.train), sets.val, len(sets.test)] == [8, None, 2]
    assert sorted(sets.test.labels.tolist()) == [0, 1]
    assert sets.remark == "test part drawn, 0.2 of each class"
    assert not set(names(sets.train)) & set(names(sets.test))


def test_numbered_classes_are_in_the_order_of_their_numbers(make, table):
    sets = make("table", path=str(table(rows([10, 9, 10, 9, 2, 2]), 6)), test_fraction=0.5).open()
    assert sets.classes == ("2", "9", "10")


def test_a_table_for_each_split_and_a_root(make, table, tmp_path: Path):
    train = table("image\tlabel\n0.png\tcat\n1.png\tdog\n", 3, "train.tsv")
    test = table("image\tlabel\n2.png\tdog\n", 3, "test.tsv")
    sets = make("table", train=str(train), test=str(test), root=str(tmp_path / "images")).open()
    assert (names(sets.train), names(sets.test), sets.test.labels.tolist()) == (["0.png", "1.png"], ["2.png"], [1])
    assert [file.name for file in sets.files] == ["train.tsv", "test.tsv"]


def test_several_labels_in_a_cell(make, table, preprocessing):
    path = table(rows(["cat;indoors", "", "dog ; cat;cat", "indoors", "dog", "cat"]), 6)
    data = make("table", path=str(path), labels_are="several", separator=";", val_fraction=0, test_fraction=0.17)
    sets = data.open()
    assert (sets.classes, sets.labels_are) == (("cat", "dog", "indoors"), "several")
    assert names(sets.train) == [f"{place}.png" for place in range(6)]
    assert sets.train.labels[:3].tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]
    splits = data.load(preprocessing)
    assert (splits.labels_are, splits.train.labels.dtype, splits.train.labels.shape) == ("several", torch.uint8, (5, 3))
    assert splits.source.endswith("5 train + 1 test images with any of 3 labels; test part drawn, 0.17 of all")


def test_a_column_of_zero_and_one_for_each_label(make, table):
    text = "image,dog,cat\n" + "".join(
        f"images/{place}.png,{place % 2},{'True' if place > 2 else '0.0'}\n" for place in range(6)
    )
    sets = make("table", path=str(table(text, 6)), labels_are="several", label_columns=["dog", "cat"]).open()
    assert sets.classes == ("dog", "cat")
    assert sets.train.labels.sum(dim=0).tolist() == [3, 3]


def test_numbers_are_targets_as_they_stand(make, table, preprocessing):
    text = rows([f"{place},{place / 8 - 1e3:.3f}" for place in range(8)], "image,age,height")
    data = make(
        "table", path=str(table(text, 8)), labels_are="numbers", label_columns=["age", "height"], val_fraction=0
    )
    splits = data.load(preprocessing)
    assert (splits.classes, splits.labels_are) == (("age", "height"), "numbers")
    assert splits.train.labels.dtype == torch.float32
    ages, heights = torch.cat([splits.train.labels, splits.test.labels]).T
    assert sorted(ages.tolist()) == list(range(8))
    assert torch.allclose(heights, ages / 8 - 1e3)


def test_a_parquet_table_says_the_same_as_a_csv(make, table, tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table("", 6)
    paths = [f"images/{place}.png" for place in range(6)]
    columns = {
        "image": paths,
        "kind": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0],
        "tags": [["a", "b"], [], ["b"], ["a"], ["a"], ["b"]],
        "good": [True, False] * 3,
        "age": [1.5, 2.25, 3.0, 4.0, 5.0, 6.0],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "table.parquet")
    (tmp_path / "table.csv").write_text(
        "image,kind,tags,good,age\n"
        + "".join(
            f"{path},{int(kind)},{'/'.join(tags)},{int(good)},{age}\n"
            for path, kind, tags, good, age in zip(*columns.values(), strict=True)
        )
    )
    for given in (
        {"label_columns": ["kind"]},
        {"label_columns": ["tags"], "labels_are": "several", "separator": "/"},
        {"label_columns": ["good"], "labels_are": "several"},
        {"label_columns": ["age"], "labels_are": "numbers"},
    ):
        found = []
        for name in ("table.parquet", "table.csv"):
            sets = make("table", path=str(tmp_path / name), **given).open()
            found.append((sets.classes, names(sets.train), sets.train.labels.tolist()))
        assert found[0] == found[1]


def test_a_mark_of_order_quoted_cells_and_blank_rows_are_read(make, table):
    cat = '"a ""cat"", black"'
    lines = [f'"images/0.png",{cat}', "", "images/1.png,dog", ",", "images/2.png,dog", f"images/3.png,{cat}", ""]
    text = "\r\n".join(["\ufeffimage,label", *lines])
    sets = make("table", path=str(table(text, 4))).open()
    assert sets.classes == ('a "cat", black', "dog")
    assert len(sets.train) == 4


def test_absolute_paths_below_the_root_are_relative_to_it(make, table, tmp_path: Path):
    text = "image,label\n" + "".join(f"{tmp_path}/images/./{place}.png,{place % 2}\n" for place in range(4))
    absolute = make("table", path=str(table(text, 4)), test_fraction=0.5, val_fraction=0)
    relative = make("table", path=str(table(rows([0, 1, 0, 1]), 4, "other.csv")), test_fraction=0.5, val_fraction=0)
    assert absolute.fingerprint(skipped=0) == relative.fingerprint(skipped=0)


def test_the_fingerprint_follows_the_labels(make, table):
    found = set()
    for values in ([0.5, 1, 2, 3], [0.25, 1, 2, 3]):
        path = table(rows(values), 4)
        data = make("table", path=str(path), labels_are="numbers", test_fraction=0.25, val_fraction=0)
        found.add(data.fingerprint(skipped=0))
    assert len(found) == 2


BROKEN = {
    "a missing picture": (
        rows(["a", "b", "a", "b"]),
        3,
        {},
        r"names 1 of 4 pictures that .* lacks: images/3.png \(row 5\)",
    ),
    "an empty class": (
        rows(["a", "", "b", ""]),
        4,
        {},
        r"row 3 has no class in column 'label', .*; so have 1 more of 4 rows",
    ),
    "an empty path": ("image,label\n,a\nimages/0.png,b", 1, {}, "row 2 has no path in column 'image'"),
    "a class in test alone": (
        rows(["a,train", "b,train", "c,test", "c,test"], "image,label,split"),
        4,
        {"split_column": "split"},
        "row 4 has class 'c' in column 'label', as no training row has; so have 1 more of 2 rows",
    ),
    "an unknown split": (
        rows(["a,train", "b,hold-out"], "image,label,split"),
        2,
        {"split_column": "split"},
        "row 3 has split 'hold-out' in column 'split', should be train, val or test",
    ),
    "no training row": (rows(["a,val"], "image,label,split"), 1, {"split_column": "split"}, "no row .* says train"),
    "a column that is not there": (
        "image,lable\nimages/0.png,a",
        1,
        {},
        "data.label_columns: no column 'label' .* did you mean lable",
    ),
    "another delimiter": ("image;label\nimages/0.png;a", 1, {}, "(?s)no column 'image'.*data.delimiter=';'"),
    "a column twice": ("image,label,label\nimages/0.png,a,b", 1, {}, "has 2 columns 'label'"),
    "no rows": ("image,label\n", 0, {}, "has no rows below its header"),
    "no header": ("", 0, {}, "is empty or has no header"),
    "a row of other length": ("image,label\nimages/0.png,a,b", 1, {}, "row 2 has 3 cells, should have 2"),
    "a quote that does not end": ('image,label\n"images/0.png,a\n', 1, {}, "row 2: unexpected end of data"),
    "a huge cell": ('image,label\nimages/0.png,"' + "a" * 140_000, 1, {}, "row 2: field larger than field limit"),
    "null bytes": ("image,label\nimages/0.png,\0", 1, {}, "null bytes"),
    "one class": (rows(["a", "a"]), 2, {}, "table.csv has one class, 'a'; at least two are needed"),
    "a name that is none": (rows(["a", "b" * 300]), 2, {}, "should be the name of a class, of at most 255"),
    "one picture twice": (
        "image,label\nimages/0.png,a\nimages/1.png,b\n./images/0.png,a",
        2,
        {},
        "row 4 names 'images/0.png' again, after row 2",
    ),
    "a path that leads out": (rows(["a", "b"]).replace("images/1", "../images/1"), 2, {}, "row 3 names .*outside of"),
    "a value that is not 0 or 1": (
        rows([0, 1, 2]),
        3,
        {"labels_are": "several"},
        "row 4 has value '2' in column 'label', should be 0 or 1; data.separator divides",
    ),
    "no label at all": (rows(["", ";"]), 2, {"labels_are": "several", "separator": ";"}, "has no label in column"),
    "a number that is none": (
        rows([1, "3,5".replace(",", "-"), 2]),
        3,
        {"labels_are": "numbers"},
        "row 3 has number '3-5'",
    ),
    "a number that is missing": (
        rows([1, "", ""]),
        3,
        {"labels_are": "numbers"},
        "row 3 has no number .*; so have 1 more of 3",
    ),
    "not a number": (
        rows([1, "NaN", 2]),
        3,
        {"labels_are": "numbers"},
        "row 3 has 'NaN' .*, should be a finite number",
    ),
    "infinite": (
        rows([1, 2, "1e300"]),
        3,
        {"labels_are": "numbers"},
        "row 4 has '1e300' .*, should be a finite number",
    ),
    "a folder of pictures that is not there": (
        rows(["a", "b"]),
        2,
        {"root": "/nowhere"},
        "data.root: no folder /nowhere",
    ),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_table_is_named_with_row_and_column(make, table, case: str):
    text, count, given, said = BROKEN[case]
    data = make("table", path=str(table(text, count)), **given)
    with pytest.raises(ConfigError, match=said) as error:
        data.check()
    message = str(error.value)
    assert len(message.splitlines()) <= 2
    assert "table.csv" in message


def test_texts_in_other_encodings_are_refused(make, table, tmp_path: Path):
    path = table(rows(["a", "b"]), 2)
    for content, said in (
        ("image,label".encode("utf-16"), "it is UTF-16"),
        (b"image,label\n\xe9,a", "not UTF-8 in byte 13"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            make("table", path=str(path)).check()


def test_one_picture_in_two_splits_is_refused(make, table):
    train, test = table(rows(["a", "b", "a"]), 3, "train.csv"), table(rows(["a", "b"]), 3, "test.csv")
    with pytest.raises(ConfigError, match=r"test\.csv row 2 names 'images/0.png' again, after row 2 of .*train\.csv"):
        make("table", train=str(train), test=str(test)).check()


OPTIONS = {
    "both": ({"train": "a.csv", "path": "b.csv"}, "set data.path to one table, or data.train"),
    "neither": ({}, "set data.path to one table, or data.train"),
    "val beside path": ({"path": "a.csv", "val": "b.csv"}, "val and test go with train"),
    "a split column of a split": ({"train": "a.csv", "split_column": "split"}, "train is a split"),
    "a separator of classes": ({"path": "a.csv", "separator": ";"}, "is for labels_are=several"),
    "two columns of classes": ({"path": "a.csv", "label_columns": ["a", "b"]}, "names 2 columns, should name one"),
    "a column twice": ({"path": "a.csv", "labels_are": "numbers", "label_columns": ["a", "a"]}, "names 'a' twice"),
    "a delimiter of parquet": ({"path": "a.parquet", "delimiter": ";"}, "is a parquet file"),
    "no file": ({"path": "nowhere.csv"}, "cannot read .*nowhere.csv"),
}


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options_that_do_not_go_together(make, case: str):
    given, said = OPTIONS[case]
    with pytest.raises(ConfigError, match=said):
        make("table", **given).check()


def test_shots_count_images_of_a_class_only(make, table):
    path = table(rows([0.5, 1, 2, 3]), 4)
    with pytest.raises(ConfigError, match=r"counts images of each class, and .* whose labels are numbers"):
        make("table", path=str(path), labels_are="numbers", test_fraction=0.25, shots=1).check()


def test_a_corrupt_picture_is_left_out_with_its_labels(make, table, preprocessing, tmp_path: Path):
    path = table(rows([0.5, 1, 2, 3, 4, 5]), 6)
    whole = make("table", path=str(path), labels_are="numbers", on_corrupt="skip", val_fraction=0).load(preprocessing)
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    splits = make("table", path=str(path), labels_are="numbers", on_corrupt="skip", val_fraction=0).load(preprocessing)
    assert splits.skipped == 1
    left = [value for value in torch.cat([whole.train.labels, whole.test.labels]).flatten().tolist() if value != 2]
    assert torch.cat([splits.train.labels, splits.test.labels]).flatten().tolist() == left
    assert np.isfinite(left).all()


def test_data_of_every_kind_of_label_pass_the_check_of_data_sets(table, monkeypatch):
    path = str(table(rows([0, 1, 1, 0, 1, 0]), 6))
    for kind in ("classes", "several", "numbers"):
        check_data("table", path=path, labels_are=kind, val_fraction=0, test_fraction=0.34)
    opened = ImageTable.open
    monkeypatch.setattr(ImageTable, "open", lambda self: replace(opened(self), classes=("a", "b")))
    with pytest.raises(AssertionError, match="train: labels have 1 columns, but there are 2 names of them"):
        check_data("table", path=path, labels_are="several", val_fraction=0)


def test_labels_are_put_in_the_order_of_a_model(make, table, preprocessing):
    text = rows(["1,0,5", "0,1,6", "1,1,7"], "image,dog,cat,bird")
    given = {"label_columns": ["dog", "cat", "bird"], "labels_are": "numbers", "test_fraction": 0.34, "val_fraction": 0}
    images = make("table", path=str(table(text, 3)), **given).load(preprocessing).train
    for model in (["bird", "cat", "dog"], ["cat", "bird", "dog"]):
        places = torch.tensor([model.index(name) for name in given["label_columns"]])
        found = images.relabelled(places).labels
        columns = {name: images.labels[:, place] for place, name in enumerate(given["label_columns"])}
        assert torch.equal(found, torch.stack([columns[name] for name in model], dim=1))
