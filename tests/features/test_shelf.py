"""The cache folder keeps within its limits and touches nothing that is not its own."""

import os
import shutil
import threading
import time

import pytest
import torch

from peft_vision.features.entry import Entry, Writer
from peft_vision.features.shelf import Shelf

ROW = torch.zeros(1, 1000)


def put(shelf: Shelf, name: str, *, used: int) -> Entry:
    """About 4 kB, last used at a time."""
    entry = Entry(path=shelf.path(f"{name}-features"), key=name, shape=(1, 1000), dtype=torch.float32)
    writer = Writer(entry, {})
    writer.write(ROW)
    writer.place()
    os.utime(entry.path, (used, used))
    return entry


def names(shelf: Shelf) -> list[str]:
    return [path.name.partition("-")[0] for path, _ in shelf.held()]


def test_the_least_recently_used_make_room(tmp_path):
    shelf = Shelf(tmp_path, limit_bytes=14_500)
    entries = [put(shelf, name, used=used) for used, name in enumerate("abc", start=1)]
    assert shelf.refusal(1_000) is None
    assert names(shelf) == ["a", "b", "c"]
    assert shelf.find(entries[0]) is not None  # now the last that was used
    assert shelf.refusal(4_000) is None
    assert names(shelf) == ["c", "a"]


def test_what_never_fits_is_refused_and_evicts_nothing(tmp_path):
    shelf = Shelf(tmp_path, limit_bytes=5_000)
    put(shelf, "a", used=1)
    assert "features.disk_gib" in shelf.refusal(6_000)
    assert names(shelf) == ["a"]


def test_a_disk_without_room_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2**30))
    assert "the disk of" in Shelf(tmp_path, limit_bytes=10**12).refusal(1_000)


def test_a_broken_entry_is_removed_and_said(tmp_path, caplog):
    shelf = Shelf(tmp_path, limit_bytes=10**6)
    entry = put(shelf, "a", used=1)
    with entry.path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert shelf.find(entry) is None
    assert "a-features.safetensors is not usable, its checksum is wrong; it is computed again" in caplog.text
    assert shelf.find(entry) is None
    assert names(shelf) == []


def test_strangers_in_the_folder_stay(tmp_path):
    shelf = Shelf(tmp_path, limit_bytes=5_000)
    for name in ("adapter.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"mine" * 2000)
    put(shelf, "a", used=1)
    assert shelf.refusal(4_000) is None
    put(shelf, "b", used=2)
    shelf.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "notes.txt"]


def test_a_folder_that_cannot_be_made_is_a_fault(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make" in Shelf(tmp_path / "file" / "store", limit_bytes=1).fault()
    assert Shelf(tmp_path / "store", limit_bytes=1).fault() is None


@pytest.mark.parametrize("same", [True, False])
def test_one_computes_while_the_others_wait_but_only_for_the_same(same, tmp_path):
    shelf = Shelf(tmp_path, limit_bytes=1)
    inside = []

    def second():
        with shelf.alone("a" if same else "b"):
            inside.append("second")

    with shelf.alone("a"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        inside.append("first")
    thread.join()
    assert inside == (["first", "second"] if same else ["second", "first"])


def test_what_a_killed_process_left_is_removed(tmp_path):
    shelf = Shelf(tmp_path, limit_bytes=1)
    (tmp_path / ".a-features.safetensors.1f.unfinished").write_text("half")
    (tmp_path / ".b-features.safetensors.2f.unfinished").write_text("another process is at work")
    with shelf.alone("a"):
        assert [path.name for path in tmp_path.glob(".*.unfinished")] == [".b-features.safetensors.2f.unfinished"]
