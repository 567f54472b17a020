"""This module reads and writes the folder of a run, which is named by the identity of its config; it holds:

config.yaml           resolved config
metrics.jsonl         one line an epoch
result.json           written once, at the end, whole; where it is, the run is done
adapter.safetensors   the tuned tensors and the head
probe.safetensors     the head of a first phase that trained nothing else
predictions.parquet   what was predicted for each image of validation and test
failed.json           why the run stopped, if it failed
choice.json           how a tuning chose the run's setting, if one did
ood.json, ood-*.png   scores of the model out of distribution, computed after the end
state.pt              the state to resume from; gone when the run is done
state.pt.damaged      a state that could not be resumed from
.attempt              the attempt's id: a run that began anew is another one in its tracker
"""

import errno
import json
import logging
import os
import re
import secrets
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from peft_vision.core.config import Busy, ConfigError, Pruned
from peft_vision.core.guide import fault
from peft_vision.core.records import LINES, Unreadable, exists, read_bytes, read_yaml, sealed
from peft_vision.core.sharing import Lock
from peft_vision.core.tensor_files import Damaged, read_state, write_state
from peft_vision.runs.run_records import Choice, FailureRecord, Result, ShiftScores, read_checked

logger = logging.getLogger("peft_vision")
_OF_A_STATE = {"tuned", "standing", "origin"}
_METRICS = "metrics_crc32"  # in a state: of the metrics up to then; states of version 0.1.0 have none
OTHER_VERSION = "is of another version of peft-vision\ndelete it to begin the run anew"
_UNFINISHED = ".unfinished"
_TRIES = 100
PREDICTIONS = "predictions.parquet"
"""The file of a run's predictions, which runs/predictions.py writes and reads."""


class DiskFault(ConfigError):
    """The error for a file that could not be written, which is not a fault of the run."""


@dataclass(frozen=True)
class Run:
    """The folder of one run. Files are written next to their place and moved there whole."""

    folder: Path

    def read_result(self) -> Result | None:
        """Return the result of a run that is done, None for any other."""
        return Result.read(self.folder)

    def read_state(self) -> dict[str, Any] | None:
        """Return the newest saved state, on the CPU, or None without one. Raise Damaged if it is not what was written,
        and ConfigError if it is of another version or cannot be read."""
        path = self.folder / "state.pt"
        try:
            state = read_state(path)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror or error}\nmend that, or delete it") from error
        if state is None:
            return None
        if not isinstance(state, dict) or {*state} - {_METRICS} != _OF_A_STATE:
            raise ConfigError(f"{path} {OTHER_VERSION}")
        rows = state["standing"].get("rows") if isinstance(state["standing"], dict) else None
        if not isinstance(rows, int) or rows < 0:
            raise Damaged("it does not say how many rows of metrics there are")
        if state.pop(_METRICS, None) not in (None, zlib.crc32(self._metrics(rows))):
            raise Damaged("metrics.jsonl is not what it was")
        return state

    def set_state_aside(self, reason: object) -> None:
        """Rename a damaged state, so that nothing resumes from it and nobody loses it."""
        path = self.folder / "state.pt"
        with writing(path):
            os.replace(path, path.with_name(f"{path.name}.damaged"))
        logger.warning("%s is damaged: %s; it is kept as %s.damaged, and the run begins anew", path, reason, path.name)

    @contextmanager
    def locked(self, *, wait: bool) -> Iterator[None]:
        """Create the folder and keep every other process out of it within the block. Raise Busy if another process is
        in there and `wait` is False. Remove a folder that an error left empty, as where a run's data were refused."""
        is_first = not self.folder.parent.exists()
        lock = Lock(self.folder / ".lock")
        for left in reversed(range(_TRIES)):
            if self._entered(lock, wait=wait, last=not left):
                break
        try:
            tidy(self.folder, but=("choice.json",))  # which other processes write
            yield
        except DiskFault:  # the same command will resume here
            raise
        except BaseException:
            self._leave(with_parent=is_first)
            raise
        finally:
            lock.release()

    def _entered(self, lock: Lock, *, wait: bool, last: bool) -> bool:
        """Create the folder and take its lock. If another process removed the folder meanwhile, return False, or raise
        the error in the `last` try."""
        with writing(self.folder):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not lock.acquire(wait=False):
                    if not wait:
                        raise Busy(f"another process is working on this run: {self.folder}")
                    logger.info("waiting for another process that is working on %s", self.folder)
                    lock.acquire(wait=True)
            except (FileExistsError, FileNotFoundError):  # mkdir found the folder, and then it was not there
                if last:
                    raise
                return False
        return True

    def _leave(self, *, with_parent: bool) -> None:
        """Remove the folder if it holds only the lock, which this process holds; and its parent if `with_parent`."""
        with suppress(OSError):  # another process has entered since: the folder is its own
            if [path.name for path in self.folder.iterdir()] == [".lock"]:
                (self.folder / ".lock").unlink()
                self.folder.rmdir()
                if with_parent:
                    self.folder.parent.rmdir()

    def has_leftovers(self) -> bool:
        """Return whether a killed process left a saved state, or files half written."""
        return (self.folder / "state.pt").exists() or any(self.folder.glob(f".*{_UNFINISHED}"))

    def forget_way(self) -> None:
        """Remove the saved state and the failure, which mean nothing once there is a result."""
        for name in ("state.pt", "failed.json"):
            with suppress(OSError):  # harmless, and removed the next time
                (self.folder / name).unlink(missing_ok=True)

    def read_failure(self) -> str | None:
        """Return why the run stopped, if it did by itself and has not been finished since."""
        record = read_checked(self.folder / "failed.json", FailureRecord)
        return None if record is None else record.error

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Write what stops the run to failed.json, except stops, pruning, a damaged state, and faults of the disk."""
        try:
            yield
        except (DiskFault, Pruned, Damaged):
            raise
        except Exception as error:
            record = {"error": fault(error), "traceback": "".join(traceback.format_exception(error))}
            with suppress(DiskFault):
                place(self.folder / "failed.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
            raise

    def read_config(self) -> dict[str, Any] | None:
        """Return the resolved config, or None if there is none that can be read."""
        path = self.folder / "config.yaml"
        try:
            config = read_yaml(path) if exists(path) else None
        except Unreadable:
            return None
        return config if isinstance(config, dict) else None

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config, for people and for `--config-dir`."""
        place(self.folder / "config.yaml", lambda path: path.write_text(yaml.safe_dump(dict(config), sort_keys=False)))

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Append the metrics of one epoch as a line."""
        with writing(self.folder), (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())  # on the disk before a state that counts on it

    def keep_metrics(self, epochs: int) -> None:
        """Drop the lines of epochs that will be trained again, and a line that a crash tore."""
        kept = self._metrics(epochs)
        place(self.folder / "metrics.jsonl", lambda path: path.write_bytes(kept))

    def _metrics(self, rows: int | None = None) -> bytes:
        """Return the first lines of the metrics, or all, of as many bytes as such a file may have."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return b""
        with writing(path), path.open("rb") as file:
            lines = file.read(LINES.size).splitlines(keepends=True)
        return b"".join(lines[:rows])

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state to resume from, and add a checksum of the metrics."""

        whole = {**state, _METRICS: zlib.crc32(self._metrics())}
        place(self.folder / "state.pt", lambda path: write_state(whole, path))

    def write_result(self, result: Result) -> None:
        """Write the result and end the run. A value of a user's own type is written as Python prints it."""
        _write(self.folder / "result.json", result.written())
        self.forget_way()

    def place_adapter(self, write: Callable[[Path], object]) -> None:
        """Put the adapter file that `write(path)` writes into its place."""
        place(self.folder / "adapter.safetensors", write)

    def place_predictions(self, write: Callable[[Path], object]) -> None:
        """Put the file of the predictions, which `write(path)` writes, into its place."""
        place(self.folder / PREDICTIONS, write)

    def place_probe(self, write: Callable[[Path], object]) -> None:
        """Put the file of a first phase's head, which `write(path)` writes, into its place."""
        place(self.probe, write)

    @property
    def probe(self) -> Path:
        """Return the path of a first phase's head; it exists only if a phase trained the head alone before all else."""
        return self.folder / "probe.safetensors"

    def read_ood(self) -> ShiftScores | None:
        """Return the record of what has been scored out of distribution, or None if there is none."""
        return read_checked(self.folder / "ood.json", ShiftScores)

    def write_ood(self, record: ShiftScores) -> None:
        """Replace the record of what has been scored out of distribution."""
        _write(self.folder / "ood.json", record.model_dump(exclude_unset=True))

    def read_choice(self) -> Choice | None:
        """Return how a tuning chose the run's setting, or None if none did."""
        return read_checked(self.folder / "choice.json", Choice)

    def write_choice(self, record: Choice) -> None:
        """Replace the record of how the run's setting was chosen."""
        _write(self.folder / "choice.json", record.written())


def _write(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(sealed(record), indent=2) + "\n"
    place(path, lambda path: path.write_text(text))


def place(path: Path, write: Callable[[Path], object], *, key: str = "runs") -> None:
    """Let `write` fill a file next to `path`, and move it to `path` once it is on the disk. `key`: see `writing`."""
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    with writing(path, key=key):
        try:
            unfinished.unlink(missing_ok=True)  # of a process that was killed; it may be a link
            write(unfinished)
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):  # the error that stopped the writing says more
                unfinished.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Sync the folder, so that a new name outlives a power cut too, on systems where a folder can be opened."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def tidy(folder: Path, *, but: Sequence[str] = ()) -> None:
    """Remove the unfinished files of killed processes in `folder`, where nobody else writes now, `but` those named."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        if path.name not in [f".{name}{_UNFINISHED}" for name in but]:
            with suppress(OSError):
                path.unlink()


@contextmanager
def writing(path: Path, *, key: str = "runs") -> Iterator[None]:
    """Raise DiskFault, in one clear line, for a full disk or a folder that may not be written; `key` chose it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save wraps the disk's error
        if not isinstance(cause, OSError):
            raise
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        again = "the same command again" + (", which goes on from the last saved epoch" if key == "runs" else "")
        remedy = (
            f"make room and start {again}; or set {key}=FOLDER"
            if full
            else f"set {key}=FOLDER to a folder that can be made and written"
        )
        raise DiskFault(f"cannot write {path.absolute()}: {cause.strerror or cause}\n{remedy}") from error


def refuse_run(out: Path, *, own: Path | None = None) -> None:
    """Raise ConfigError if `out` is the folder of a run, whose adapter would be replaced, other than `own`."""
    if own is not None and out.resolve() == own.resolve():
        return
    if any(exists(out / name) for name in ("result.json", "state.pt")):
        raise ConfigError(f"out: {out} is the folder of a run, whose adapter would be replaced; name another")


def is_epoch(row: Mapping[str, Any]) -> bool:
    """Return whether a line of metrics.jsonl is of an epoch; a solver's are of settings, which it counts from 1."""
    return "lr" in row and "weight_decay" not in row


_NAME = ".attempt"
_LARGEST = 64  # bytes of the file


def attempt(folder: Path, *, anew: bool) -> str:
    """Return the 8 hex digits of the folder's attempt, drawn afresh if `anew`; "" if an earlier version began it."""
    path = folder / _NAME
    if anew:
        place(path, lambda path: path.write_text(f"{secrets.token_hex(4)}\n"))
    if not exists(path):
        return ""
    said = read_bytes(path, largest=_LARGEST, remedy="delete it").decode(errors="replace").strip()
    return said if re.fullmatch("[0-9a-f]{8}", said) else ""


def mirrored_as(identity: str, folder: Path, *, anew: bool) -> str:
    """Return the id under which a tracker mirrors the present attempt at a run."""
    return "-".join(filter(None, (identity, attempt(folder, anew=anew))))
