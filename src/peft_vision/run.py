"""A run is its config: the identity that names its folder, and the files in there.

config.yaml           resolved config
metrics.jsonl         one line an epoch
result.json           written once, at the end, whole; where it is, the run is done
adapter.safetensors   the tuned tensors and the head
probe.safetensors     the head of a first phase that trained nothing else
ood.json, ood-*.png   what became of the model out of distribution, scored after the end
state.pt              where to go on from; gone when the run is done
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from peft_vision.config import ConfigError


def identity(lasting_config: Mapping[str, Any]) -> str:
    """16 hex digits that stand for everything in a config that can change the result."""
    text = json.dumps(lasting_config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """The folder of one run. Files are written beside their place and moved there whole."""

    folder: Path

    def read_result(self) -> dict[str, Any] | None:
        """The result of a run that is done."""
        path = self.folder / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def read_state(self) -> dict[str, Any] | None:
        """The newest saved state, on the CPU."""
        path = self.folder / "state.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps every other process out of it."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise ConfigError(f"another process is at work on this run: {self.folder}") from None
        try:
            yield
        finally:
            lock.release()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """The resolved config, for people and for `--config-dir`."""
        place(self.folder / "config.yaml", lambda path: path.write_text(yaml.safe_dump(dict(config), sort_keys=False)))

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """One line for one epoch."""
        with writing(self.folder), (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())  # on the disk before a state that counts on it

    def keep_metrics(self, epochs: int) -> None:
        """Drops the lines of epochs that will be done again, and a line that a crash tore."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)[:epochs] if path.is_file() else []
        place(self.folder / "metrics.jsonl", lambda path: path.write_text("".join(lines)))

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replaces the state to go on from."""

        def write(path: Path) -> None:
            with path.open("wb") as file:  # given a path, torch hides why it cannot write
                torch.save(dict(state), file)

        place(self.folder / "state.pt", write)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Ends the run."""
        place(self.folder / "result.json", lambda path: path.write_text(json.dumps(result, indent=2) + "\n"))
        (self.folder / "state.pt").unlink(missing_ok=True)

    def place_adapter(self, write: Callable[[Path], object]) -> None:
        """`write(path)` writes the adapter file."""
        place(self.folder / "adapter.safetensors", write)

    def place_probe(self, write: Callable[[Path], object]) -> None:
        """The same of the head of a first phase."""
        place(self.probe, write)

    @property
    def probe(self) -> Path:
        """Its file; there is none where no phase trained the head alone before all else."""
        return self.folder / "probe.safetensors"

    def read_ood(self) -> dict[str, Any] | None:
        """What has been scored out of distribution."""
        path = self.folder / "ood.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def write_ood(self, record: Mapping[str, Any]) -> None:
        """Replaces it."""
        place(self.folder / "ood.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))


def place(path: Path, write: Callable[[Path], object], *, key: str = "runs") -> None:
    """`write` fills a file beside `path`, which then moves there whole. `key` as in `writing`."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with writing(path, key=key):
        try:
            write(unfinished)
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *, key: str = "runs") -> Iterator[None]:
    """A disk that is full or a folder that may not be written becomes one clear line; `key` chose the folder."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        fault = error if isinstance(error, OSError) else error.__context__  # torch.save wraps the disk's error
        if not isinstance(fault, OSError):
            raise
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        again = "the same command again" + (", which goes on from the last saved epoch" if key == "runs" else "")
        remedy = (
            f"make room and start {again}; or set {key}=FOLDER"
            if full
            else f"set {key}=FOLDER to a folder that can be made and written"
        )
        raise ConfigError(f"cannot write {path.absolute()}: {fault.strerror or fault}\n{remedy}") from error
