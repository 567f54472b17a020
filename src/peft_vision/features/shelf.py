"""This module manages the cache folder: its entries, room for new ones, and locks so that one process at a time
computes an entry."""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from peft_vision.core.sharing import Lock
from peft_vision.features.entry import UNFINISHED, Broken, CacheEntry, Writer, file_bytes

_log = logging.getLogger("peft_vision")
_GIB = 2**30
_SUFFIX = ".safetensors"
_NAME = rf"([0-9a-f]+)-[a-z]+[\d_]*{re.escape(_SUFFIX)}"
_OURS = re.compile(_NAME)  # other files in the folder are not touched
_LEFT = re.compile(rf"\.{_NAME}\.[0-9a-f]+{re.escape(UNFINISHED)}")
_SPARE_BYTES = 2 * _GIB  # of the disk stay free for other programs
_BLOCK = 512  # bytes; the unit of st_blocks on any file system


def size(num_bytes: float) -> str:
    """Return a size such as 3.5 GiB, or 12.0 MiB."""
    return f"{num_bytes / _GIB:.1f} GiB" if num_bytes >= _GIB else f"{num_bytes / 2**20:.1f} MiB"


@dataclass(frozen=True)
class CacheDir:
    """A folder of entries that together hold at most `limit_bytes`; the least recently used are removed first."""

    folder: Path
    limit_bytes: int

    def path(self, name: str) -> Path:
        """Return the path of an entry of this name."""
        return self.folder / f"{name}{_SUFFIX}"

    def fault(self) -> str | None:
        """Return why the folder cannot be written, or None after creating it."""
        if self.folder.parts[:1] and self.folder.parts[0].startswith("~"):
            return f"no home folder is known for {self.folder}; set features.folder or HOME"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"cannot make {self.folder}: {error.strerror or error}"
        return None if os.access(self.folder, os.W_OK) else f"cannot write in {self.folder}"

    def find(self, entry: CacheEntry) -> Tensor | None:
        """Return the rows of an entry if it is present and valid. An invalid one is removed and logged, and an
        unreadable one is logged; None is returned then."""
        try:
            rows = entry.open()
        except FileNotFoundError:
            return None
        except Broken as error:
            _log.warning("store     %s is not usable, %s; it is computed again", entry.path.name, error)
            removal(entry.path)
            return None
        except OSError as error:
            _log.warning("store     cannot read %s: %s", entry.path, error.strerror or error)
            return None
        with suppress(OSError):  # the file of another user, or a read-only disk
            os.utime(entry.path)  # the time decides what is evicted first
        return rows

    def writer(self, entry: CacheEntry, origin: Mapping[str, Any]) -> Writer | None:
        """Return a writer for an entry after making room for it by removing others, or log the reason and return None
        where there is no room. Raise OSError where the disk refuses the file."""
        with self._room():
            refusal = self.refusal(file_bytes(entry, origin))
            if refusal is None:
                return Writer(entry, origin)
        _log.warning("store     %s is not written: %s", entry.path.name, refusal)
        return None

    def refusal(self, num_bytes: int) -> str | None:
        """Return why this many bytes cannot be written, or None after removing entries to make room for them."""
        if num_bytes > self.limit_bytes:
            return f"{size(num_bytes)}, more than features.disk_gib={self.limit_bytes / _GIB:g}"
        unfinished = [*self._unfinished()]
        coming = num_bytes + sum(status.st_size for status in unfinished)
        if coming > self.limit_bytes:
            return f"{size(num_bytes)}, and with what is being written more than {self.limit_bytes / _GIB:g} GiB"
        held = self.held()
        total = coming + sum(num_held for _, num_held in held)
        for path, num_held in held:
            if total <= self.limit_bytes:
                break
            _log.info("store     %s goes, to keep within features.disk_gib", path.name)
            total -= num_held if removal(path) else 0
        if total > self.limit_bytes:
            return f"{size(num_bytes)}, and nothing that lies there can be removed to keep within features.disk_gib"
        promised = sum(max(0, status.st_size - _BLOCK * status.st_blocks) for status in unfinished)
        free = max(0, shutil.disk_usage(self.folder).free - promised)
        if num_bytes + _SPARE_BYTES > free:
            spare = f"{size(free)} left, of which {size(_SPARE_BYTES)} stay free"
            return f"{size(num_bytes)}, and the disk of {self.folder} has {spare}"
        return None

    def _unfinished(self) -> Iterator[os.stat_result]:
        """Yield the status of each file that a process is writing, which has its final size and takes the room on the
        disk bit by bit; files of killed processes are removed."""
        for path in self.folder.glob(f".*{UNFINISHED}"):
            if (name := _LEFT.fullmatch(path.name)) is None:
                continue
            if not self._is_at_work(name[1]):
                removal(path)
                continue
            with suppress(OSError):  # it was placed in the meantime
                yield path.stat()

    def _is_at_work(self, name: str) -> bool:
        """Return whether a process, this one included, is computing an entry of this name; True where it is unknown."""
        lock = self._lock(name)
        try:
            taken = lock.acquire(wait=False)
        except OSError:
            return True  # unknown, so assume that it is
        lock.release()
        return not taken

    def _lock(self, name: str) -> Lock:
        return Lock(self.folder / f".{name}.lock")

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Let one process at a time look for room, as two would count the same free space."""
        lock = self._lock("room")
        with suppress(OSError):  # without locks each process looks for itself
            lock.acquire(wait=True)
        try:
            yield
        finally:
            lock.release()

    def held(self) -> list[tuple[Path, int]]:
        """Return every entry with its size in bytes, the least recently used first."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if not _OURS.fullmatch(path.name):
                continue
            with suppress(OSError):  # another process removed it
                status = path.stat()
                found.append((status.st_mtime, path, status.st_size))
        return [(path, size) for _, path, size in sorted(found)]

    def clear(self) -> int:
        """Remove every entry that can be removed, and unfinished files of killed processes. Return the number of
        entries removed."""
        removed = sum(removal(path) for path, _ in self.held())
        list(self._unfinished())  # removes them
        return removed

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Let one process at a time into the block; unfinished files of this name from killed processes are removed
        first."""
        lock, alone = self._lock(name), True
        try:
            if not lock.acquire(wait=False):
                _log.info("store     another process computes %s; waiting for it", name)
                lock.acquire(wait=True)
        except OSError:  # without locks it may be computed twice, but each file is still complete
            alone = False
        try:
            for left in self.folder.glob(f".{name}-*{UNFINISHED}") if alone else ():
                removal(left)
            yield
        finally:
            lock.release()


def removal(path: Path) -> bool:
    """Remove the file and return whether it is gone; the operating system may refuse."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
