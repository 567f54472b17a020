"""The cache folder keeps within its limits and touches nothing that is not its own."""

import os
import shutil
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from nobody import as_nobody
from peft_vision.features.entry import CacheEntry, Writer, file_bytes
from peft_vision.features.shelf import CacheDir

ROW = torch.zeros(1, 1000)


def put(shelf: CacheDir, name: str, *, used: int) -> CacheEntry:
    """About 4 kB, last used at a time."""
    entry = CacheEntry(path=shelf.path(f"{name}-features"), key=name, shape=(1, 1000), dtype=torch.float32)
    writer = Writer(entry, {})
    writer.write(ROW)
    writer.place()
    os.utime(entry.path, (used, used))
    return entry


def names(shelf: CacheDir) -> list[str]:
    return [path.name.partition("-")[0] for path, _ in shelf.held()]


def test_the_least_recently_used_make_room(tmp_path):
    shelf = CacheDir(tmp_path, limit_bytes=14_500)
    entries = [put(shelf, name, used=used) for used, name in enumerate("abc", start=1)]
    assert shelf.refusal(1_000) is None
    assert names(shelf) == ["a", "b", "c"]
    assert shelf.find(entries[0]) is not None  # now the last that was used
    assert shelf.refusal(4_000) is None
    assert names(shelf) == ["c", "a"]


def test_what_never_fits_is_refused_and_evicts_nothing(tmp_path):
    shelf = CacheDir(tmp_path, limit_bytes=5_000)
    put(shelf, "a", used=1)
    assert "features.disk_gib" in shelf.refusal(6_000)
    assert names(shelf) == ["a"]


def test_a_disk_without_room_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2**30))
    assert "the disk of" in CacheDir(tmp_path, limit_bytes=10**12).refusal(1_000)


def test_room_on_the_disk_that_is_promised_to_one_entry_is_not_given_to_another(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2 * 2**30 + 1_500_000))
    shelf = CacheDir(tmp_path, limit_bytes=10**12)
    entries = [CacheEntry(shelf.path(f"{name}-features"), name, (1, 250_000), torch.float32) for name in "ab"]
    with shelf.alone("a"), shelf.alone("b"):
        first, second = (shelf.writer(entry, {}) for entry in entries)
    assert second is None
    assert "b-features.safetensors is not written: 1.0 MiB, and the disk of" in caplog.text
    first.discard()


def test_a_broken_entry_is_removed_and_said(tmp_path, caplog):
    shelf = CacheDir(tmp_path, limit_bytes=10**6)
    entry = put(shelf, "a", used=1)
    with entry.path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert shelf.find(entry) is None
    assert "a-features.safetensors is not usable, its checksum is wrong; it is computed again" in caplog.text
    assert shelf.find(entry) is None
    assert names(shelf) == []


def test_strangers_in_the_folder_stay(tmp_path):
    shelf = CacheDir(tmp_path, limit_bytes=5_000)
    for name in ("adapter.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"mine" * 2000)
    put(shelf, "a", used=1)
    assert shelf.refusal(4_000) is None
    put(shelf, "b", used=2)
    shelf.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "notes.txt"]


def test_a_folder_that_cannot_be_made_is_a_fault(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make" in CacheDir(tmp_path / "file" / "store", limit_bytes=1).fault()
    assert CacheDir(tmp_path / "store", limit_bytes=1).fault() is None


@pytest.mark.parametrize("same", [True, False])
def test_one_computes_while_the_others_wait_but_only_for_the_same(same, tmp_path):
    shelf = CacheDir(tmp_path, limit_bytes=1)
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
    shelf = CacheDir(tmp_path, limit_bytes=1)
    (tmp_path / ".a-features.safetensors.1f.unfinished").write_text("half")
    (tmp_path / ".b-features.safetensors.2f.unfinished").write_text("another process is at work")
    with shelf.alone("a"):
        assert [path.name for path in tmp_path.glob(".*.unfinished")] == [".b-features.safetensors.2f.unfinished"]


def three_kinds(folder) -> list[CacheEntry]:
    """Of one key, 4 kB each."""
    names = ("features", "contexts", "tokens11")
    return [CacheEntry(folder / f"a-{name}.safetensors", "a", (1, 1000), torch.float32) for name in names]


def held_bytes(folder) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize(("room", "written"), [(14_000, 3), (12_500, 2), (9_000, 2), (5_000, 1), (4_100, 0)])
def test_kinds_that_are_written_together_keep_within_the_limit_together(room, written, tmp_path, caplog):
    shelf = CacheDir(tmp_path, limit_bytes=room)
    with shelf.alone("a"):
        writers = [shelf.writer(entry, {}) for entry in three_kinds(tmp_path)]
        assert sum(writer is not None for writer in writers) == written
        assert held_bytes(tmp_path) <= room
        for writer in filter(None, writers):
            writer.write(ROW)
            writer.place()
    assert held_bytes(tmp_path) <= room
    assert len(shelf.held()) == written
    assert caplog.text.count("is not written") == 3 - written


def test_tokens_of_any_layer_count_and_go_like_all_others(tmp_path):
    shelf = CacheDir(tmp_path, limit_bytes=5_000)
    tokens = three_kinds(tmp_path)[2]
    writer = Writer(tokens, {})
    writer.write(ROW)
    writer.place()
    assert [path.name for path, _ in shelf.held()] == ["a-tokens11.safetensors"]
    assert shelf.refusal(4_000) is None
    assert shelf.held() == []


def test_what_a_killed_process_left_of_another_key_makes_room(tmp_path):
    left = tmp_path / ".b-features.safetensors.1f.unfinished"
    left.write_bytes(b"half" * 1000)
    at_work = tmp_path / ".c-features.safetensors.2f.unfinished"
    with CacheDir(tmp_path, limit_bytes=1).alone("c"):
        at_work.write_bytes(b"half" * 1000)
        assert CacheDir(tmp_path, limit_bytes=9_000).refusal(4_900) is None
        assert not left.exists()
        assert "with what is being written more than" in CacheDir(tmp_path, limit_bytes=9_000).refusal(5_100)
        assert at_work.exists()


def test_an_unfinished_entry_is_as_long_as_the_finished_one_will_be(tmp_path):
    entry = three_kinds(tmp_path)[0]
    writer = Writer(entry, {"images": 7})
    (path,) = tmp_path.iterdir()
    length = path.stat().st_size
    writer.write(ROW)
    writer.place()
    assert entry.path.stat().st_size == length == file_bytes(entry, {"images": 7})


@pytest.fixture
def others():
    """A folder that anyone can reach, with an entry in it."""
    folder = Path(tempfile.mkdtemp())
    put(CacheDir(folder, limit_bytes=10**6), "a", used=1)
    yield folder
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)
    shutil.rmtree(folder)


def test_a_store_that_may_only_be_read_is_read_and_stays_as_it_is(others):
    shelf, entry = CacheDir(others, limit_bytes=10**6), three_kinds(others)[0]
    entry.path.chmod(0o444)
    others.chmod(0o555)

    def work():
        assert "cannot write in" in shelf.fault()
        assert torch.equal(shelf.find(entry), ROW)

    as_nobody(work)
    assert entry.path.stat().st_mtime == 1


def test_a_broken_entry_of_others_is_said_and_left(others, caplog):
    entry = three_kinds(others)[0]
    entry.path.write_bytes(b"broken")
    entry.path.chmod(0o444)
    others.chmod(0o555)

    def work():
        assert CacheDir(others, limit_bytes=10**6).find(entry) is None
        assert "is not usable" in caplog.text
        assert CacheDir(others, limit_bytes=10).refusal(9) is not None  # it cannot be made to go
        assert CacheDir(others, limit_bytes=10).clear() == 0

    as_nobody(work)
    assert entry.path.read_bytes() == b"broken"


def test_a_store_whose_locks_are_others_is_written_in(others):
    with CacheDir(others, limit_bytes=1).alone("a"):
        pass
    (others / ".a.lock").chmod(0o600)
    others.chmod(0o777)
    shelf, entry = CacheDir(others, limit_bytes=10**6), three_kinds(others)[1]

    def work():
        with shelf.alone("a"):
            writer = shelf.writer(entry, {})
            writer.write(ROW)
            writer.place()
        assert torch.equal(shelf.find(entry), ROW)

    as_nobody(work)
    assert len(shelf.held()) == 2


def test_entries_in_a_groups_folder_are_the_groups(tmp_path):
    tmp_path.chmod(0o2775)
    shelf = CacheDir(tmp_path, limit_bytes=10**6)
    entry = put(shelf, "a", used=1)
    with shelf.alone("a"):
        pass
    assert [stat.S_IMODE(path.stat().st_mode) & 0o060 for path in (entry.path, tmp_path / ".a.lock")] == [0o060] * 2


def test_without_a_home_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no home folder is known for ~/.cache" in CacheDir(Path("~/.cache/store"), limit_bytes=1).fault()
    assert list(tmp_path.iterdir()) == []
