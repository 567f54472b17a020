"""This module downloads a torchvision data set once, completely or not at all.

It is downloaded and unpacked in a hidden folder under the root and moved into place when complete, so an
interrupted download is never mistaken for data; with a lock, one of several processes does it while the others wait.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from peft_vision.core.config import ConfigError
from peft_vision.data.torchvision_table import TorchvisionEntry

PROBE_SECONDS = 6
STALL_SECONDS = 30


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
