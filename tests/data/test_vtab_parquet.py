"""VTAB-1k in parquet files: its three parts, or whole data sets."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from peft_vision.core.config import ConfigError
from peft_vision.data import download
from vtab_miniatures import FOLDERS, HIGHEST, labels, parquet

PLACES = {
    "hub": None,
    "subset": None,
    "image": "image",
    "label": "label",
    "train": "train",
    "val": None,
    "test": "test",
}


def mini(make, root: Path, task: str, **places):
    return make(f"vtab/{task}", root=str(root), miniature=True, source="parquet", parquet=PLACES | places)


def shown(part) -> list[int]:
    return [part.pictures.read(index).getpixel((0, 0))[0] for index in part.indices.tolist()]


@pytest.mark.parametrize("task", HIGHEST)
def test_parquet_files_of_the_three_parts_are_taken_as_they_are(make, tmp_path: Path, task: str):
    folder = tmp_path / "vtab-1k" / FOLDERS.get(task, task)
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        parquet(folder / f"{split}-00000-of-00001.parquet", labels(task, count))
    sets = mini(make, tmp_path, task, val="val").open()
    assert sets.train.labels.tolist() == [0, HIGHEST[task], 1, 0]
    assert sets.val.labels.tolist() == [0, HIGHEST[task]]
    assert sets.test.labels.tolist() == [0, HIGHEST[task], 1]
    assert [shown(part) for part in (sets.train, sets.val, sets.test)] == [[0, 1, 2, 3], [0, 1], [0, 1, 2]]
    assert sets.classes == tuple(str(label) for label in range(HIGHEST[task] + 1))
    assert sets.provenance["index list"] == "the release's own"


def test_a_whole_data_set_is_drawn_of(make, tmp_path: Path):
    parquet(tmp_path / "svhn" / "train.parquet", [place % 10 for place in range(50)], label="digit")
    parquet(tmp_path / "svhn" / "test.parquet", list(range(10)), label="digit")
    sets = mini(make, tmp_path, "svhn", label="digit").open()
    assert (len(sets.train), len(sets.val), len(sets.test)) == (40, 10, 10)
    assert sets.train.labels.tolist() == [place % 10 for place in shown(sets.train)]
    assert not set(shown(sets.train)) & set(shown(sets.val))
    assert sets.provenance["index list"] == "not the official one, drawn with data.split_seed=0"


def test_nothing_is_fetched_from_the_hub_for_a_fingerprint(make, tmp_path: Path, monkeypatch):
    def snapshot(repository, *, local_files_only, **_):
        assert local_files_only
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr(download, "snapshot_download", snapshot)
    monkeypatch.setattr(download, "reachable", lambda site: True)
    with pytest.raises(ConfigError, match=r"^data: cannot get us/svhn: not, or not whole, in "):
        mini(make, tmp_path, "svhn", hub="us/svhn").fingerprint(skipped=0)


def test_names_of_classes_are_kept(make, tmp_path: Path):
    for split in ("train", "val", "test"):
        parquet(tmp_path / "camelyon" / f"{split}.parquet", [0, 1], names=("healthy", "tumour"))
    (tmp_path / "camelyon").rename(tmp_path / "patch_camelyon")
    assert mini(make, tmp_path, "camelyon", val="val").open().classes == ("healthy", "tumour")


@pytest.mark.parametrize(
    ("places", "complaint"),
    [
        (
            {},
            "data.root: {root} lacks 1 of 1 parts of VTAB-1k's KITTI/distance: vtab-1k/kitti\n"
            "put its parquet files there or into {root}/kitti, or data.parquet.hub=NAME takes",
        ),
        ({"test": None}, "data.parquet.test: got null, should name the split of the test images"),
    ],
)
def test_what_is_missing_is_told(make, tmp_path: Path, places: dict, complaint: str):
    with pytest.raises(ConfigError) as error:
        mini(make, tmp_path, "kitti", **places).check()
    assert complaint.format(root=tmp_path) in str(error.value)


def test_a_key_of_the_files_is_named_in_full(make, tmp_path: Path):
    parquet(tmp_path / "kitti" / "train.parquet", [0, 1, 2, 3])
    with pytest.raises(ConfigError, match=r"data\.parquet\.test: no parquet file of split 'test'"):
        mini(make, tmp_path, "kitti").check()
