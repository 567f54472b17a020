"""The cache folder: which entries it holds, room for new ones, and one process at a time that computes one."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from peft_vision.features.entry import UNFINISHED, Broken, Entry

_log = logging.getLogger("peft_vision")
_GIB = 2**30
_SUFFIX = ".safetensors"
_OURS = re.compile(rf"[0-9a-f]+-[a-z]+{re.escape(_SUFFIX)}")  # what else lies in the folder is not touched
_SPARE_BYTES = 2 * _GIB  # of the disk, for whatever else writes there


def size(num_bytes: float) -> str:
    """Such as 3.5 GiB, or 12.0 MiB."""
    return f"{num_bytes / _GIB:.1f} GiB" if num_bytes >= _GIB else f"{num_bytes / 2**20:.1f} MiB"


@dataclass(frozen=True)
class Shelf:
    """A folder of entries that together hold at most `limit_bytes`; the least recently used go first."""

    folder: Path
    limit_bytes: int

    def path(self, name: str) -> Path:
        """Where an entry of this name belongs."""
        return self.folder / f"{name}{_SUFFIX}"

    def fault(self) -> str | None:
        """Why nothing can be written here; None after the folder was made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"cannot make {self.folder}: {error.strerror or error}"
        return None if os.access(self.folder, os.W_OK) else f"cannot write in {self.folder}"

    def find(self, entry: Entry) -> Tensor | None:
        """The rows of an entry that is there and whole; one that is not is removed, and a line says why."""
        try:
            rows = entry.open()
            os.utime(entry.path)  # for what is evicted first
        except FileNotFoundError:
            return None
        except Broken as error:
            _log.warning("store     %s is not usable, %s; it is computed again", entry.path.name, error)
            entry.path.unlink(missing_ok=True)
            return None
        except OSError as error:
            _log.warning("store     cannot read %s: %s", entry.path, error.strerror or error)
            return None
        return rows

    def refusal(self, num_bytes: int) -> str | None:
        """Why so much cannot be written; otherwise None, after others have made room for it."""
        if num_bytes > self.limit_bytes:
            return f"{size(num_bytes)}, more than features.disk_gib={self.limit_bytes / _GIB:g}"
        held = self.held()
        total = sum(num_held for _, num_held in held)
        for path, num_held in held:
            if total + num_bytes <= self.limit_bytes:
                break
            _log.info("store     %s goes, to keep within features.disk_gib", path.name)
            path.unlink(missing_ok=True)
            total -= num_held
        free = shutil.disk_usage(self.folder).free
        if num_bytes + _SPARE_BYTES > free:
            spare = f"{size(free)} left, of which {size(_SPARE_BYTES)} stay free"
            return f"{size(num_bytes)}, and the disk of {self.folder} has {spare}"
        return None

    def held(self) -> list[tuple[Path, int]]:
        """Every entry with its bytes, the least recently used first."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if not _OURS.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):  # another process removed it
                status = path.stat()
                found.append((status.st_mtime, path, status.st_size))
        return [(path, size) for _, path, size in sorted(found)]

    def clear(self) -> None:
        """Removes every entry, and what killed processes left."""
        for path in [*(path for path, _ in self.held()), *self.folder.glob(f".*{UNFINISHED}")]:
            path.unlink(missing_ok=True)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Lets one process at a time into the block; what a killed one left there is removed."""
        lock = FileLock(self.folder / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("store     another process computes %s; waiting for it", name)
            lock.acquire()
        try:
            for left in self.folder.glob(f".{name}*{UNFINISHED}"):
                left.unlink(missing_ok=True)
            yield
        finally:
            lock.release()
