"""Image data sets in parquet files, from a folder or the hub."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command import call, run_folder
from peft_vision.core.config import ConfigError
from peft_vision.data.decode import Geometry
from peft_vision.data.divide import with_test_part
from peft_vision.data.parquet_rows import ParquetRows
from peft_vision.data.pictures import Files
from vtab_miniatures import encoded, parquet

CATS = ("lynx", "manul", "ocelot")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images to train on in two files, four to test on; labels have names."""
    root = tmp_path / "cats"
    parquet(root / "data" / "train-00000-of-00002.parquet", [0, 1, 2, 0], names=CATS)
    parquet(root / "data" / "train-00001-of-00002.parquet", [1, 2, 2], names=CATS, first=4)
    parquet(root / "data" / "test-00000-of-00001.parquet", [2, 1, 0, 0], names=CATS, first=100)
    return root


def shown(part) -> list[int]:
    return [part.pictures.read(index).getpixel((0, 0))[0] for index in part.indices.tolist()]


def test_pictures_and_labels_are_those_of_the_rows(make, folder: Path):
    sets = make("parquet", path=str(folder)).open()
    assert sets.classes == CATS
    assert sets.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 2]
    assert (sets.test.labels.tolist(), sets.val) == ([2, 1, 0, 0], None)
    assert (shown(sets.train), shown(sets.test)) == ([0, 1, 2, 3, 4, 5, 6], [100, 101, 102, 103])
    assert sets.train.pictures.read(0).size == (12, 10)


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_are_the_same_in_memory_and_from_disk(make, folder: Path, preprocessing, in_memory: bool):
    splits = make("parquet", path=str(folder), cache=in_memory, val_fraction=0, workers=2).load(preprocessing)
    pixels = splits.train.pixels[torch.arange(7)]
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    batches = [batch for batch, _ in splits.train.in_order(batch_size=3, workers=2)]
    assert torch.equal(torch.cat(batches), pixels)
    assert splits.provenance == {"source": "parquet files", "encoding": "PNG"}


def test_a_row_group_is_read_once_for_neighbours(make, folder: Path, monkeypatch):
    pictures = make("parquet", path=str(folder)).open().train.pictures
    reads = []
    reading = pictures._groups
    monkeypatch.setattr(pictures, "_groups", _Counted(reading, reads))
    for index in (0, 1, 2, 3, 4, 5, 6, 0):
        pictures.read(index)
    assert reads == [0, 1, 2]  # rows 0 to 2, 3, and 4 to 6


class _Counted(list):
    """Tells which of its items are asked for."""

    def __init__(self, items: list, reads: list) -> None:
        super().__init__(items)
        self.reads = reads

    def __getitem__(self, place: int):
        self.reads.append(place)
        return super().__getitem__(place)


def test_row_groups_beyond_the_memory_are_let_go(make, folder: Path, monkeypatch):
    monkeypatch.setattr("peft_vision.data.parquet_rows._HELD_MIB", 0)
    pictures = make("parquet", path=str(folder)).open().train.pictures
    assert [pictures.read(index).getpixel((0, 0))[0] for index in (6, 0, 5, 1)] == [6, 0, 5, 1]
    assert len(pictures._held) == 1


def test_pictures_can_be_sent_to_a_loader_process(make, folder: Path):
    pictures = make("parquet", path=str(folder)).open().train.pictures
    assert pickle.loads(pickle.dumps(pictures)).read(4).getpixel((0, 0)) == (4, 4, 4)


def test_identity_hangs_on_the_files_and_not_on_where_they_lie(make, folder: Path, tmp_path: Path, preprocessing):
    before = make("parquet", path=str(folder)).load(preprocessing).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert make("parquet", path=str(moved)).load(preprocessing).fingerprint == before
    parquet(moved / "data" / "test-00000-of-00001.parquet", [2, 1, 0, 0], names=CATS, first=100, kind="BMP")
    assert make("parquet", path=str(moved)).load(preprocessing).fingerprint != before
    part = make("parquet", path=str(moved)).open().train
    assert list(part.pictures.contents(torch.tensor([5, 1]))) == [encoded(5), encoded(1)]


def test_splits_may_be_folders_and_images_plain_bytes(make, tmp_path: Path):
    parquet(tmp_path / "train" / "0000.parquet", [0, 1], plain=True)
    parquet(tmp_path / "validation" / "0000.parquet", [1, 0], plain=True, first=10)
    parquet(tmp_path / "test" / "0000.parquet", [1, 2], plain=True, first=20)
    sets = make("parquet", path=str(tmp_path), val="validation").open()
    assert [shown(part) for part in (sets.train, sets.val, sets.test)] == [[0, 1], [10, 11], [20, 21]]
    assert sets.classes == ("0", "1", "2")


def test_labels_may_be_names(make, tmp_path: Path):
    parquet(tmp_path / "train.parquet", ["ocelot", "lynx", "manul"], image="img", label="cat")
    parquet(tmp_path / "test.parquet", ["manul", "lynx"], image="img", label="cat")
    sets = make("parquet", path=str(tmp_path), image="img", label="cat").open()
    assert sets.classes == CATS
    assert (sets.train.labels.tolist(), sets.test.labels.tolist()) == ([2, 0, 1], [1, 0])


def test_a_test_part_is_drawn_where_there_is_none(make, tmp_path: Path):
    parquet(tmp_path / "train.parquet", [0, 1] * 10)
    sets = with_test_part(make("parquet", path=str(tmp_path), test=None, test_fraction=0.3).open())
    assert (len(sets.train), len(sets.test), sets.remark) == (14, 6, "test part drawn, 0.3 of each class")


def test_a_subset_is_a_folder_below(make, tmp_path: Path):
    for name, first in (("large", 0), ("small", 50)):
        for split in ("train", "test"):
            parquet(tmp_path / name / f"{split}-00000-of-00001.parquet", [0, 1], first=first)
    assert shown(make("parquet", path=str(tmp_path), subset="small").open().train) == [50, 51]
    with pytest.raises(ConfigError, match=r"split 'train' is in several folders of .*: large, small; subset chooses"):
        make("parquet", path=str(tmp_path)).check()


def test_a_run_trains_on_it(folder: Path, tmp_path: Path):
    words = ("experiment=smoke", "data=parquet", f"data.path={folder}", "data.train_size=null", "method=linear")
    outcome = call(*words, "data.val_fraction=0", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert '"encoding": "PNG"' in (run_folder(tmp_path / "runs") / "result.json").read_text()


def no_folder(folder: Path) -> str:
    folder.rename(folder.with_name("dogs"))
    return f"data.path: no folder {folder}, of files such as train-00000-of-00001.parquet"


def no_test(folder: Path) -> str:
    (folder / "data" / "test-00000-of-00001.parquet").rename(folder / "data" / "testing-00000-of-00001.parquet")
    return f"data.test: no parquet file of split 'test' in {folder}, which has testing, train"


def no_file(folder: Path) -> str:
    for file in folder.glob("data/*"):
        file.unlink()
    return f"data.train: no parquet file of split 'train' in {folder}, which has no parquet file"


def torn(folder: Path) -> str:
    file = folder / "data" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    return f"data: cannot read {file} ("


def other_column(folder: Path) -> str:
    file = parquet(folder / "data" / "test-00000-of-00001.parquet", [0], label="labels")
    return f"data.label: no column 'label' in {file}, which has id, image, labels; did you mean labels?"


def no_label(folder: Path) -> str:
    file = parquet(folder / "data" / "test-00000-of-00001.parquet", [0, None, -1], names=CATS)
    return f"data.label: {file} row 1 has label None, as have 2 of 3 rows; should be a class's number or name"


def labels_withheld(folder: Path) -> str:
    file = parquet(folder / "data" / "test-00000-of-00001.parquet", [-1, -1], names=CATS)
    return f"data.label: {file} row 0 has label -1, as have 2 of 2 rows"


def a_class_too_many(folder: Path) -> str:
    file = parquet(folder / "data" / "test-00000-of-00001.parquet", [0, 3], names=CATS)
    return f"data.label: class 3 of {file} is not among the 3"


def a_number_beyond_all_classes(folder: Path) -> str:
    for file in folder.glob("data/*"):
        file.unlink()
    for name in ("train", "test"):
        parquet(folder / "data" / f"{name}.parquet", [0, 2**62])
    return f"data.label: a row of {folder}/data has class {2**62}, no number of a class"


def no_pictures(folder: Path) -> str:
    import pyarrow
    import pyarrow.parquet

    file = folder / "data" / "test-00000-of-00001.parquet"
    table = pyarrow.table({"image": [[1, 2], [3, 4]], "label": [0, 1]})
    pyarrow.parquet.write_table(table, file)
    return f"data.image: column 'image' of {file} holds list<"


def names_and_numbers(folder: Path) -> str:
    for name, values in (("train", [0, 1]), ("test", ["lynx"])):
        parquet(folder / "data" / f"{name}-00000-of-00001.parquet", values)
    for file in folder.glob("data/train-*2.parquet"):
        file.unlink()
    return f"data.label: the rows of {folder}/data have no label, or names beside numbers"


@pytest.mark.parametrize(
    "spoil",
    [
        no_folder,
        no_test,
        no_file,
        torn,
        other_column,
        no_label,
        labels_withheld,
        a_class_too_many,
        a_number_beyond_all_classes,
        no_pictures,
        names_and_numbers,
    ],
)
def test_files_that_do_not_fit_are_refused(make, folder: Path, spoil):
    complaint = spoil(folder)
    with pytest.raises(ConfigError) as error:
        make("parquet", path=str(folder)).check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("places", [{}, {"path": "here", "hub": "a/b"}])
def test_one_place_must_be_named(make, places: dict):
    with pytest.raises(ConfigError, match=r"data: set data\.path to a folder of parquet files, or data\.hub to a"):
        make("parquet", **places).check()


def test_pictures_of_sixteen_bits_and_with_transparency_are_those_of_files(make, folder: Path, tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    deep = np.random.default_rng(0).integers(0, 3000, (20, 20)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 20, 4), np.uint8)).save(tmp_path / "clear.png")
    file = folder / "data" / "test-00000-of-00001.parquet"
    rows = [{"bytes": (tmp_path / name).read_bytes()} for name in ("deep.png", "clear.png")]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": [0, 1]}), file)
    stored = make("parquet", path=str(folder)).open().test.pictures
    files = Files(tmp_path, ["deep.png", "clear.png"])
    for index, channels in enumerate((3, 4)):
        geometry = Geometry(16, "squash", 1, "bicubic", channels, full_scale=3000)
        assert np.array_equal(stored.shaped(index, geometry), files.shaped(index, geometry))


@pytest.mark.parametrize("broken", [None, b"\x89PNG\r\n\x1a\nno more"])
def test_a_picture_that_is_not_there_is_named(make, folder: Path, preprocessing, broken):
    import pyarrow
    import pyarrow.parquet

    file = folder / "data" / "test-00000-of-00001.parquet"
    table = pyarrow.table({"image": [{"bytes": encoded(0)}, {"bytes": broken}], "label": [0, 1]})
    pyarrow.parquet.write_table(table, file)
    with pytest.raises(ConfigError, match=f"data: cannot read {file} row 1"):
        make("parquet", path=str(folder)).load(preprocessing)
    assert make("parquet", path=str(folder), on_corrupt="skip").load(preprocessing).skipped == 1


def test_what_reads_the_files_is_named_where_it_is_not_installed(make, folder: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        make("parquet", path=str(folder)).check()


def test_rows_of_several_files_are_counted_from_zero_in_each(folder: Path, make):
    pictures = make("parquet", path=str(folder)).open().train.pictures
    assert isinstance(pictures, ParquetRows)
    assert [Path(pictures.name(index)).name for index in (3, 4, 6)] == [
        "train-00000-of-00002.parquet row 3",
        "train-00001-of-00002.parquet row 0",
        "train-00001-of-00002.parquet row 2",
    ]
