"""The files of a run: whole, on the disk, and none left that says nothing."""

import json
import logging
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from made_up_runs import made_up_result
from peft_vision.core.config import Busy, ConfigError
from peft_vision.core.tensor_files import Damaged
from peft_vision.runs.run import DiskFault, Run, place, tidy

STATE = {"tuned": {}, "standing": {"rows": 2}, "origin": {}}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path)


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder.iterdir())


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_is_before_anything_goes_on(tmp_path, monkeypatch):
    done = []

    def fsync(number: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else os.readlink(f"/proc/self/fd/{number}")
        done.append(("sync", kind.rpartition("/")[2], kind != "folder" and os.fstat(number).st_size))

    def replace(old, new, rename=os.replace) -> None:
        done.append(("rename", new.name, new.exists()))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    place(tmp_path / "result.json", lambda path: path.write_text("whole"))
    assert done == [
        ("sync", ".result.json.unfinished", 5),
        ("rename", "result.json", False),
        ("sync", "folder", False),
    ]


def test_a_row_of_metrics_is_on_the_disk_before_anything_counts_on_it(run, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    run.append_metrics({"epoch": 1})
    assert synced == [len('{"epoch": 1}\n')]


def test_what_lies_in_the_way_of_an_unfinished_file_is_not_written_into(run):
    os.mkfifo(run.folder / ".result.json.unfinished")
    run.write_result(made_up_result(seed=1))
    assert json.loads((run.folder / "result.json").read_text())["seed"] == 1
    assert names(run) == ["result.json"]


def test_a_disk_fault_is_one_line_and_leaves_what_was_there(run):
    def full(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    run.place_adapter(lambda path: path.write_bytes(b"whole"))
    with pytest.raises(DiskFault, match="No space left on device\nmake room"):
        run.place_adapter(full)
    assert names(run) == ["adapter.safetensors"]
    assert (run.folder / "adapter.safetensors").read_bytes() == b"whole"


def test_who_enters_a_run_removes_what_a_killed_process_left_there(run):
    for name in (".ood-scatter.png.unfinished", ".state.pt.unfinished", ".choice.json.unfinished", "notes.unfinished"):
        (run.folder / name).touch()
    with run.locked(wait=False):
        # choice.json is written by a tuning, which does not enter
        assert names(run) == [".choice.json.unfinished", ".lock", "notes.unfinished"]
        (run.folder / ".state.pt.unfinished").touch()
        with pytest.raises(Busy), run.locked(wait=False):
            pass
        assert (run.folder / ".state.pt.unfinished").exists()
    tidy(run.folder)
    assert names(run) == [".lock", "notes.unfinished"]


def test_a_result_ends_the_way_that_led_to_it(run):
    run.write_state(STATE)
    (run.folder / "failed.json").write_text("{}")
    run.write_result(made_up_result())
    assert names(run) == ["result.json"]


def test_a_state_that_cannot_be_removed_does_not_cost_the_result(run):
    (run.folder / "state.pt").mkdir()
    run.write_result(made_up_result(seed=1))
    assert (run.folder / "result.json").is_file()


def test_a_damaged_state_is_kept_under_another_name_and_named(run, caplog):
    (run.folder / "state.pt").write_bytes(b"torn")
    with pytest.raises(Damaged, match="its end is missing") as damage:
        run.read_state()
    run.set_state_aside(damage.value)
    assert names(run) == ["state.pt.damaged"]
    assert f"{run.folder}/state.pt is damaged: its end is missing; it is kept as state.pt.damaged" in caplog.text
    assert run.read_state() is None


def test_metrics_of_16_gib_are_not_read_whole(run):
    run.append_metrics(ROWS[0])
    run.write_state({**STATE, "standing": {"rows": 1}})
    os.truncate(run.folder / "metrics.jsonl", 2**34)
    assert run.read_state() is not None  # the row that counts is what it was
    (run.folder / "metrics.jsonl").write_bytes(b"")
    os.truncate(run.folder / "metrics.jsonl", 2**34)
    with pytest.raises(Damaged, match=r"metrics\.jsonl is not what it was"):
        run.read_state()
    run.keep_metrics(0)
    assert (run.folder / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("standing", [{}, {"rows": -1}, {"rows": "2"}, [], None])
def test_a_state_that_does_not_say_where_it_stands_is_damaged(standing, run):
    run.write_state({**STATE, "standing": standing})
    with pytest.raises(Damaged):
        run.read_state()


def test_a_state_of_other_parts_is_of_another_version(run):
    run.write_state({"model": {}, "standing": {}, "origin": {}})
    with pytest.raises(ConfigError, match="is of another version of peft-vision\ndelete it"):
        run.read_state()


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_state_that_may_not_be_read_is_not_taken_for_damaged(run):
    run.write_state(STATE)
    (run.folder / "state.pt").chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        run.read_state()


ROWS = [{"epoch": 1, "train/loss": 2.5}, {"epoch": 2, "train/loss": 1.5}]


@pytest.fixture
def begun(run) -> Run:
    for row in ROWS:
        run.append_metrics(row)
    run.write_state(STATE)
    return run


def test_rows_that_a_state_does_not_count_on_are_dropped(begun):
    begun.append_metrics({"epoch": 3})
    with (begun.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epo\xff')
    assert begun.read_state() == STATE
    begun.keep_metrics(2)
    assert [json.loads(line) for line in (begun.folder / "metrics.jsonl").read_text().splitlines()] == ROWS


@pytest.mark.parametrize("spoil", [lambda text: b"", lambda text: text[:-3], lambda text: text.replace(b"2.5", b"2.4")])
def test_rows_that_a_state_counts_on_and_that_changed_damage_it(spoil, begun):
    path = begun.folder / "metrics.jsonl"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(Damaged, match=r"metrics\.jsonl is not what it was"):
        begun.read_state()
    path.unlink()
    with pytest.raises(Damaged, match=r"metrics\.jsonl is not what it was"):
        begun.read_state()


def test_a_state_of_the_first_version_counts_on_what_there_is(begun):
    torch.save(STATE, begun.folder / "state.pt")
    (begun.folder / "metrics.jsonl").write_text("")
    assert begun.read_state() == STATE


@contextmanager
def refused(run: Run, *, wait: bool):
    """In the folder, until an error ends it."""
    with suppress(ConfigError), run.locked(wait=wait):
        yield
        raise ConfigError("refused")


def test_a_folder_that_an_error_left_empty_is_gone_and_so_is_the_one_made_for_it(tmp_path):
    run = Run(tmp_path / "runs" / "one")
    with refused(run, wait=False):
        assert names(run) == [".lock"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    with refused(run, wait=False):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]
    with refused(run, wait=False):
        (run.folder / "config.yaml").touch()
    assert names(run) == [".lock", "config.yaml"]


def test_an_empty_folder_stays_where_the_disk_was_full(tmp_path):
    run = Run(tmp_path / "runs" / "one")
    with pytest.raises(DiskFault), run.locked(wait=False):
        raise DiskFault("full")
    assert names(run) == [".lock"]


def test_who_waited_for_a_folder_that_went_has_it_anew_and_alone(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="peft_vision")
    run, entered, leave = Run(tmp_path / "runs" / "one"), threading.Event(), threading.Event()

    def wait() -> None:
        with refused(run, wait=True):
            entered.set()
            leave.wait(20)

    other = threading.Thread(target=wait)
    with refused(run, wait=False):
        other.start()
        while not caplog.messages:
            time.sleep(0.01)
    assert entered.wait(20)
    assert names(run) == [".lock"]
    with pytest.raises(Busy), run.locked(wait=False):
        pass
    leave.set()
    other.join()
    assert names(Run(tmp_path)) in ([], ["runs"])  # who waits finds `runs` made by another


def test_however_often_the_folder_goes_one_at_a_time_is_in_it(tmp_path):
    run, inside, most = Run(tmp_path / "runs" / "one"), [], []

    def enter() -> None:
        for _ in range(10):
            with refused(run, wait=True):
                inside.append(1)
                time.sleep(0.001)
                most.append(len(inside))
                inside.pop()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(enter) for _ in range(3)]:
            done.result()
    assert most == [1] * 30
    assert not run.folder.exists()


def test_a_folder_that_goes_just_after_it_was_found_is_made_again(tmp_path, monkeypatch):
    run, made, faults = Run(tmp_path / "runs" / "one"), Path.mkdir, [FileExistsError("File exists")]

    def mkdir(path: Path, *arguments, **options) -> None:
        if path == run.folder and faults:
            raise faults.pop()
        made(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with run.locked(wait=True):
        assert names(run) == [".lock"]


def test_a_place_where_no_folder_can_be_made_is_said_at_last():
    run = Run(Path("/proc/nowhere/one"))
    with pytest.raises(DiskFault, match=r"^cannot write /proc/nowhere/one: No such file or directory"):
        run.locked(wait=True).__enter__()
