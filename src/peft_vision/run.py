"""A run is its config: the identity that names its folder, and the files in there.

config.yaml           resolved config
metrics.jsonl         one line an epoch
result.json           written once, at the end, whole; where it is, the run is done
adapter.safetensors   the tuned tensors and the head
probe.safetensors     the head of a first phase that trained nothing else
failed.json           why it stopped, where it did
choice.json           how a tuning chose its setting, where one did
ood.json, ood-*.png   what became of the model out of distribution, scored after the end
state.pt              where to go on from; gone when the run is done
"""

import errno
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from peft_vision.config import Busy, ConfigError, Pruned
from peft_vision.wording import fault

logger = logging.getLogger("peft_vision")
_OF_A_RESULT = ("choices", "seed", "data", "metrics", "parameters", "features", "selection", "store", "config")
_OF_A_STATE = {"tuned", "standing", "origin"}
_REMEDY = "mend it, or delete it to do its work again"


class DiskFault(ConfigError):
    """A file that could not be written, which says nothing of the run."""


@dataclass(frozen=True)
class Run:
    """The folder of one run. Files are written beside their place and moved there whole."""

    folder: Path

    def read_result(self) -> dict[str, Any] | None:
        """The result of a run that is done."""
        result = _read(self.folder / "result.json")
        for key in _OF_A_RESULT if result is not None else ():
            if key not in result:
                raise ConfigError(
                    f"{self.folder / 'result.json'}: no {key}: it is of another version, or edited\n{_REMEDY}"
                )
        return result

    def read_state(self) -> dict[str, Any] | None:
        """The newest saved state, on the CPU. ConfigError for one that is torn or of another version."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return None
        content = path.read_bytes()
        try:
            state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # a torn file makes torch raise whatever it likes
            raise ConfigError(f"cannot read {path}: {fault(error)}\ndelete it to begin the run anew") from error
        if not isinstance(state, dict) or {*state} != _OF_A_STATE:
            raise ConfigError(f"{path} is of another version of peft-vision\ndelete it to begin the run anew")
        return state

    @contextmanager
    def locked(self, *, wait: bool) -> Iterator[None]:
        """Makes the folder, and keeps every other process out of it. Busy where one is in there and not waited for."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise Busy(f"another process is at work on this run: {self.folder}") from None
                logger.info("waits for the process that is at work on %s", self.folder)
                lock.acquire(timeout=-1)
        try:
            yield
        finally:
            lock.release()

    def read_failure(self) -> str | None:
        """Why the run stopped, where it did by itself and has not been finished since."""
        record = _read(self.folder / "failed.json")
        return None if record is None else str(record.get("error"))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Writes down what stops the run; not that somebody stopped it or gave it up, nor what is the disk's fault."""
        try:
            yield
        except (DiskFault, Pruned):
            raise
        except Exception as error:
            record = {"error": fault(error), "traceback": "".join(traceback.format_exception(error))}
            with suppress(DiskFault):
                place(self.folder / "failed.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
            raise

    def read_config(self) -> dict[str, Any] | None:
        """The resolved config; None where there is none that can be read."""
        path = self.folder / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text()) if path.is_file() else None
        except (yaml.YAMLError, OSError, ValueError):
            return None
        return config if isinstance(config, dict) else None

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
        for name in ("state.pt", "failed.json"):
            (self.folder / name).unlink(missing_ok=True)

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
        return _read(self.folder / "ood.json")

    def write_ood(self, record: Mapping[str, Any]) -> None:
        """Replaces it."""
        place(self.folder / "ood.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))

    def read_choice(self) -> dict[str, Any] | None:
        """How its setting was chosen, where a tuning chose it."""
        return _read(self.folder / "choice.json")

    def write_choice(self, record: Mapping[str, Any]) -> None:
        """Replaces it."""
        place(self.folder / "choice.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))


def _read(path: Path) -> dict[str, Any] | None:
    """None where there is no file. ConfigError for one that was edited or torn: such files are written whole."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"cannot read {path.absolute()}: {error}\n{_REMEDY}") from error
    if not isinstance(record, dict):
        raise ConfigError(f"cannot read {path.absolute()}: no record\n{_REMEDY}")
    return record


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
