"""Folders that several people write in: what one makes there, the others can use.

A folder that its group may write in is meant to be shared, whatever the umask of those who use it says.
"""

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Lock:
    """One process at a time. The file stays, unless who holds it removes it; whoever may write in its folder can take
    it, or may read it where another's umask has kept it from being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: FileLock | None = None
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock, waiting for it if `wait`, and return whether it is held now. OSError where that cannot be:
        FileNotFoundError where whoever held it has removed its folder."""
        while self._take(wait=wait):
            if self._is_in_place():
                return True
            self.release()  # of a file that was removed: others take the one that has its place now
        return False

    def _is_in_place(self) -> bool:
        """Return whether the file that is held is the one that others find."""
        held = self._descriptor if self._lock is None else self._lock._context.lock_file_fd
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(held), os.stat(self._path))
        return False

    def _take(self, *, wait: bool) -> bool:
        others = self._path.parent.stat().st_mode & _OTHERS
        lock = FileLock(self._path, mode=0o644 | others) if others else FileLock(self._path)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        except PermissionError:
            return self._acquire_unwritten(wait=wait)
        self._lock = lock
        return True

    def _acquire_unwritten(self, *, wait: bool) -> bool:
        """The same lock, of a file that may be read alone."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Nothing where it is not held."""
        if self._lock is not None:
            self._lock.release()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._lock = self._descriptor = None


def share(path: Path) -> None:
    """Lets the group read and replace a new file, where it may do so in the folder. Nothing where that cannot be."""
    with suppress(OSError):
        if path.parent.stat().st_mode & stat.S_IWGRP:
            os.chmod(path, path.stat().st_mode | stat.S_IRGRP | stat.S_IWGRP)
