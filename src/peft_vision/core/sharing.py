"""This module handles folders that several people write in: what one creates there, the others can use.

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
    """A lock file that one process at a time can hold. The file stays, unless its holder removes it; whoever may write
    in its folder can take it, even if another's umask lets them only read it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: FileLock | None = None
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock, waiting for it if `wait`, and return whether it is held now. Raise OSError if that is not
        possible: FileNotFoundError if a former holder has removed the folder."""
        while self._take(wait=wait):
            if self._is_in_place():
                return True
            self.release()  # the locked file was removed: others lock the one in its place
        return False

    def _is_in_place(self) -> bool:
        """Return whether the file that is locked is the one that others find."""
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
        """Take the same lock on a file that may only be read."""
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
        """Release the lock; do nothing if it is not held."""
        if self._lock is not None:
            self._lock.release()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._lock = self._descriptor = None


def share(path: Path) -> None:
    """Let the group read and write a new file if it may write in the folder; do nothing if that is not possible."""
    with suppress(OSError):
        if path.parent.stat().st_mode & stat.S_IWGRP:
            os.chmod(path, path.stat().st_mode | stat.S_IRGRP | stat.S_IWGRP)
