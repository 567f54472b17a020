"""Data sets of the Hugging Face hub: fetched once, taken from the cache, refused where there is no network."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from peft_vision.core.config import ConfigError
from peft_vision.data import download
from vtab_miniatures import parquet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "cats"
    parquet(root / "data" / "train-00000-of-00002.parquet", [0, 1, 2, 0])
    parquet(root / "data" / "train-00001-of-00002.parquet", [1, 2, 2])
    parquet(root / "data" / "test-00000-of-00001.parquet", [2, 1, 0, 0])
    return root


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch) -> dict:
    """A hub that has `folder`, a cache, and whether there is a network."""
    state = {"cached": None, "network": True, "requests": 0}

    def snapshot(repository, *, repo_type, allow_patterns, local_files_only):
        assert (repository, repo_type, allow_patterns) == ("us/cats", "dataset", ["*.parquet"])
        if local_files_only:
            if state["cached"] is None:
                raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
            return str(state["cached"])
        state["requests"] += 1
        return str(folder)

    monkeypatch.setattr(download, "snapshot_download", snapshot)
    monkeypatch.setattr(download, "reachable", lambda site: state["network"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return state


def test_a_data_set_comes_from_the_hub(make, hub, preprocessing):
    splits = make("parquet", hub="us/cats").load(preprocessing)
    assert splits.provenance["source"] == "us/cats on the Hugging Face hub"
    assert splits.source.startswith("us/cats: ")
    assert hub["requests"] == 1


def test_what_is_cached_whole_is_not_asked_for(make, hub, folder: Path):
    hub.update(cached=folder, network=False)
    assert len(make("parquet", hub="us/cats").open().train) == 7
    assert hub["requests"] == 0


def test_what_is_cached_in_part_is_fetched(make, hub, tmp_path: Path):
    parquet(tmp_path / "cache" / "data" / "train-00000-of-00002.parquet", [0, 1])
    hub.update(cached=tmp_path / "cache")
    assert len(make("parquet", hub="us/cats").open().train) == 7
    assert hub["requests"] == 1


def test_a_fingerprint_is_of_what_is_cached_and_nothing_is_fetched_for_it(make, hub, folder: Path, preprocessing):
    data = make("parquet", hub="us/cats", val_fraction=0)
    with pytest.raises(ConfigError, match=r"^data: cannot get us/cats: not, or not whole, in "):
        data.fingerprint(skipped=0)
    assert hub["requests"] == 0
    hub.update(cached=folder)
    assert data.fingerprint(skipped=0) == data.load(preprocessing).fingerprint
    assert hub["requests"] == 0


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_ways_out_are_told(make, hub, monkeypatch, offline: bool):
    hub.update(network=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(ConfigError) as error:
        make("parquet", hub="us/cats").check()
    first, second = str(error.value).splitlines()
    assert first.startswith("data: cannot get us/cats: not, or not whole, in ")
    assert first.endswith("(HF_HUB_OFFLINE is set)" if offline else "(no answer in 6 s)")
    assert second.startswith("ways out: fetch it where there is a network")


def test_a_name_that_is_none_is_refused(make, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"data: 'a/b/c' is not a valid repository id; an example is uoft-cs/cifar100"
    ):
        make("parquet", hub="a/b/c").check()
