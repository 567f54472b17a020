"""This module downloads data sets: those of torchvision once, completely or not at all, and parquet files from the
Hugging Face hub, unless they are in its cache.

A data set of torchvision is downloaded and unpacked in a hidden folder under the root and moved into place when
complete, so an interrupted download is never mistaken for data; with a lock, one of several processes does it while the
others wait.
"""

import http.client
import os
import shutil
import socket
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants, errors, snapshot_download

from peft_vision.core.config import ConfigError
from peft_vision.core.output import first_line
from peft_vision.data.torchvision_table import TorchvisionEntry

PROBE_SECONDS = 6
STALL_SECONDS = 30
_WAYS_OUT = "fetch it where there is a network, or put its parquet files into a folder and name that instead"


def present(entry: TorchvisionEntry, root: Path) -> bool:
    """Return whether all contents of the data set are under `root`."""
    return all((root / content).exists() for content in entry.contents)


def packed(entry: TorchvisionEntry, root: Path) -> bool:
    """Return whether all archives of the data set are under `root`, so that the remaining steps need no network."""
    return all((root / archive).is_file() for archive in entry.archives)


def reachable(site: str) -> bool:
    """Return whether `site` answers at all within PROBE_SECONDS."""
    answered, done = threading.Event(), threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(site, method="HEAD")
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answered.set()
        except urllib.error.HTTPError as error:  # a refusal is an answer
            error.close()
            answered.set()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            done.set()

    # in a thread, because the name lookup has its own time limit, which `timeout` does not shorten
    threading.Thread(target=ask, daemon=True).start()
    done.wait(PROBE_SECONDS)
    return answered.is_set()


def fetch(name: str, entry: TorchvisionEntry, root: Path) -> None:
    """Download and unpack the missing contents; archives already under `root` are used. ConfigError if that fails."""
    if present(entry, root):  # in a folder that may only be read no lock can be taken
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if not present(entry, root):
                _fetch(entry, root, root / f".{name}.partial")
    except (OSError, RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ConfigError(f"data: cannot download {name} to {root} ({error})\n{ways_out(entry)}") from error


def ways_out(entry: TorchvisionEntry) -> str:
    """Return in one line what the user can do about missing data."""
    return f"data.download=true with a network, data.root=FOLDER with {entry.contents[0]}, or experiment=demo"


def _fetch(entry: TorchvisionEntry, root: Path, staging: Path) -> None:
    for content in entry.contents:  # torchvision would take what a killed process unpacked for complete
        shutil.rmtree(staging / content, ignore_errors=True)
    for archive in entry.archives:
        if (root / archive).is_file():
            (staging / archive).parent.mkdir(parents=True, exist_ok=True)
            (staging / archive).unlink(missing_ok=True)
            (staging / archive).symlink_to(root / archive)
    with _stall_timeout():
        for arguments in (entry.train, entry.val, entry.test):
            if arguments is not None:
                entry.cls(root=str(staging), download=True, **arguments)
    for content in entry.contents:
        if not (root / content).exists():
            (root / content).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / content, root / content)
    shutil.rmtree(staging)


@contextmanager
def _stall_timeout() -> Iterator[None]:
    """Set a default socket timeout: torchvision sets none, and a connection that went silent would hang forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def fetch_from_hub(repository: str, subset: str | None, *, enough: Callable[[Path], bool]) -> Path:
    """Return the folder of the files of `subset`, or of all files. Cached files are used without a request if `enough`
    accepts them, because an interrupted download leaves only some. ConfigError if they cannot be fetched."""
    if (cached := _cached(repository, subset, enough)) is not None:
        return cached
    obstacle = _obstacle()
    if obstacle is not None:
        raise _refusal(repository, f"not, or not whole, in {constants.HF_HUB_CACHE}, and no network ({obstacle})")
    try:
        return _snapshot(repository, subset, local=False)
    except errors.RepositoryNotFoundError as error:
        raise _refusal(repository, f"{constants.ENDPOINT} has no such data set, or keeps it private") from error
    except (OSError, errors.HTTPError) as error:
        raise _refusal(repository, f"{constants.ENDPOINT} failed: {first_line(error)}") from error


def require_cached(repository: str, subset: str | None, *, enough: Callable[[Path], bool]) -> None:
    """Raise ConfigError where `fetch_from_hub` would have to fetch files."""
    if _cached(repository, subset, enough) is None:
        raise _refusal(repository, f"not, or not whole, in {constants.HF_HUB_CACHE}")


def _cached(repository: str, subset: str | None, enough: Callable[[Path], bool]) -> Path | None:
    try:
        folder = _snapshot(repository, subset, local=True)
    except OSError:  # nothing or only some files are cached
        return None
    return folder if enough(folder) else None


def _snapshot(repository: str, subset: str | None, *, local: bool) -> Path:
    patterns = [f"{subset}/*.parquet" if subset else "*.parquet"]
    try:
        root = snapshot_download(repository, repo_type="dataset", allow_patterns=patterns, local_files_only=local)
    except errors.HFValidationError as error:
        raise ConfigError(
            f"data: {repository!r} is not a valid repository id; an example is uoft-cs/cifar100"
        ) from error
    return Path(root) / (subset or "")


def _obstacle() -> str | None:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return None if reachable(constants.ENDPOINT) else f"no answer in {PROBE_SECONDS} s"


def _refusal(repository: str, reason: str) -> ConfigError:
    return ConfigError(f"data: cannot get {repository}: {reason}\nways out: {_WAYS_OUT}")
