"""Locks that several people can take."""

import os
import stat
import threading
import time
from unittest import mock

import pytest
from filelock import FileLock

from peft_vision.core.sharing import Lock, share


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize(("folder", "shared"), [(0o775, 0o664), (0o777, 0o666), (0o2775, 0o664)])
def test_who_may_write_in_the_folder_may_take_its_locks(folder, shared, umask, tmp_path):
    tmp_path.chmod(folder)
    lock = Lock(tmp_path / ".lock")
    assert lock.acquire(wait=False)
    lock.release()
    assert mode(tmp_path / ".lock") == shared


def test_in_a_folder_of_ones_own_the_umask_decides(umask, tmp_path):
    tmp_path.chmod(0o755)
    lock = Lock(tmp_path / ".lock")
    assert lock.acquire(wait=False)
    lock.release()
    assert mode(tmp_path / ".lock") == 0o666 & ~umask


@pytest.mark.parametrize(("folder", "after"), [(0o775, 0o660), (0o755, 0o600), (0o777, 0o660)])
def test_files_are_the_groups_where_the_folder_is(folder, after, tmp_path):
    tmp_path.chmod(folder)
    path = tmp_path / "entry"
    path.touch(0o600)
    share(path)
    assert mode(path) == after
    share(tmp_path / "nowhere")


def test_one_process_at_a_time_holds_it(tmp_path):
    first, second = Lock(tmp_path / ".lock"), Lock(tmp_path / ".lock")
    assert first.acquire(wait=False)
    assert not second.acquire(wait=False)
    first.release()
    assert second.acquire(wait=False)
    second.release()


def test_a_file_that_was_removed_holds_nobody_out_of_the_one_in_its_place(tmp_path):
    first, second, third = (Lock(tmp_path / ".lock") for _ in range(3))
    assert first.acquire(wait=False)
    (tmp_path / ".lock").unlink()
    assert second.acquire(wait=False)
    first.release()
    assert not third.acquire(wait=False)
    second.release()


def test_a_lock_of_a_file_that_went_meanwhile_is_not_held(tmp_path, monkeypatch):
    lock, taken = Lock(tmp_path / ".lock"), []
    take = lock._take

    def take_and_lose(*, wait: bool) -> bool:
        taken.append(take(wait=wait))
        if len(taken) == 1:  # whoever held it before removed it while this one waited
            (tmp_path / ".lock").unlink()
            (tmp_path / ".lock").touch()
        return taken[-1]

    monkeypatch.setattr(lock, "_take", take_and_lose)
    assert lock.acquire(wait=True)
    assert taken == [True, True]
    assert not Lock(tmp_path / ".lock").acquire(wait=False)
    lock.release()


def test_a_lock_that_may_only_be_read_keeps_others_out_too(tmp_path):
    plain, readable = Lock(tmp_path / ".lock"), Lock(tmp_path / ".lock")

    def acquire(lock: Lock, *, wait: bool) -> bool:
        """As where another's umask has made the file theirs."""
        return lock._acquire_unwritten(wait=wait)

    assert plain.acquire(wait=False)
    assert not acquire(readable, wait=False)
    waiting = threading.Thread(target=lambda: acquire(readable, wait=True))
    waiting.start()
    time.sleep(0.05)
    plain.release()
    waiting.join(timeout=10)
    assert not plain.acquire(wait=False)
    readable.release()
    assert plain.acquire(wait=False)
    plain.release()


def test_where_the_file_may_not_be_written_the_lock_is_taken_by_reading(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
        first = Lock(tmp_path / ".lock")
        assert first.acquire(wait=False)
        assert not Lock(tmp_path / ".lock").acquire(wait=False)
    first.release()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everything")
def test_a_lock_of_anothers_is_taken_all_the_same(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".lock").chmod(0o444)
    lock = Lock(tmp_path / ".lock")
    assert lock.acquire(wait=False)
    lock.release()
