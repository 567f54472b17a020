"""This module gets files of weights, from the Hugging Face hub or from an address of their own: from the local cache
without a network, otherwise by a download that fails early, with what to do about it."""

import hashlib
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

from peft_vision.core.config import ConfigError
from peft_vision.core.output import first_line
from peft_vision.core.progress import Progress

FILES = ("model.safetensors", "pytorch_model.bin")  # timm's file names, in order of preference
PROBE_SECONDS = 5
WAYS_OUT = "backbone.checkpoint=FILE (safetensors, npz or torch), or experiment=demo, which needs no network"
_SUM_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")  # the beginning of the sha256 of the file, as PyTorch names files
_CHUNK = 2**20
_LOGIN = "log in on this machine by `hf auth login`, or set HF_TOKEN"


def hub_file(name: str, repository: str, files: Sequence[str] = FILES) -> Path:
    """Return the local path of the first of `files` that the repository has, for the model `name`. A cached file is
    used without any request. Raise ConfigError where there is no such repository or file, where a licence must be
    accepted first, and where the download fails. `repository`: owner/name, or owner/name@revision."""
    repository, _, revision = repository.partition("@")
    try:
        cached = [try_to_load_from_cache(repository, file, revision=revision or None) for file in files]
    except errors.HFValidationError as error:
        raise ConfigError(f"backbone.name: {repository!r} is not owner/name, as the hub names a model") from error
    found = next((path for path in cached if isinstance(path, str)), None)
    return Path(found) if found else _download(name, repository, revision or None, files)


def alternatives(filename: str | None) -> Sequence[str]:
    """Return the files to look for where timm names the file of its weights: as in timm, safetensors before `.bin`."""
    if filename is None or filename == FILES[1]:
        return FILES
    if filename == "open_clip_pytorch_model.bin":
        return "open_clip_model.safetensors", filename
    return (f"{filename[:-4]}.safetensors", filename) if filename.endswith(".bin") else (filename,)


def _download(name: str, repository: str, revision: str | None, files: Sequence[str]) -> Path:
    where = f"{constants.ENDPOINT}/{repository}"
    obstacle = unreachable(constants.ENDPOINT)
    if obstacle is not None:
        raise _refusal(name, f"not in {constants.HF_HUB_CACHE}, and no network to {where} ({obstacle})")
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):  # raised when the network breaks
                raise _refusal(name, f"the download from {where} broke off") from error
        except errors.GatedRepoError as error:
            reason = f"{where} is gated; accept its licence on that page, then {_LOGIN}"
            raise ConfigError(f"backbone: cannot get {name}: {reason}") from error
        except errors.RepositoryNotFoundError as error:
            reason = f"the hub has no {repository}, or it is private; if it is private, {_LOGIN}"
            raise ConfigError(f"backbone: cannot get {name}: {reason}") from error
        except errors.RevisionNotFoundError as error:
            raise ConfigError(f"backbone: cannot get {name}: {where} has no revision {revision!r}") from error
        except (OSError, errors.HTTPError) as error:
            raise _refusal(name, f"{where} failed: {first_line(error)}") from error
    raise _refusal(name, f"{where} has neither {' nor '.join(files)}" if files[1:] else f"{where} has no {files[0]}")


def address_file(name: str, url: str) -> Path:
    """Return the local path of the file at `url`, the weights of the model `name`: in PyTorch's folder of checkpoints,
    where timm keeps such files too, after a download if it is not there. Raise ConfigError where that fails, or where
    the file is not the one whose sum its name gives."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if path.is_file():
        return path
    obstacle = unreachable(url)
    if obstacle is not None:
        raise _refusal(name, f"not in {path.parent}, and no network to {url} ({obstacle})")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _refusal(name, f"{url} failed: {first_line(error)}") from error
    return path


def _fetch(url: str, path: Path) -> None:
    """Download a file, which gets its name when it is complete. ValueError for one that is cut short or has another
    sum."""
    with (
        urllib.request.urlopen(url, timeout=10 * PROBE_SECONDS) as answer,
        NamedTemporaryFile(dir=path.parent, delete=False) as file,
    ):
        try:
            size, sha = int(answer.headers.get("Content-Length") or 0), hashlib.sha256()
            with Progress(label=f"download {path.name}", total=max(1, size // _CHUNK), unit="MiB") as progress:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    sha.update(chunk)
                    progress.advance()
            if size and file.tell() != size:
                raise ValueError(f"{file.tell():,} of {size:,} bytes came")
            given = _SUM_IN_NAME.search(path.name)
            if given and not sha.hexdigest().startswith(given[1]):
                raise ValueError(f"its sha256 begins with {sha.hexdigest()[: len(given[1])]}, not as its name says")
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def unreachable(url: str) -> str | None:
    """Return why `url` cannot be reached, or None. huggingface_hub itself would retry for 23 s for each file."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer: list[str | None] = []
    # the timeout of a socket covers neither name look-up nor several addresses; joining a thread covers all
    thread = Thread(target=lambda: answer.append(_probe(url)), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return answer[0] if answer else f"no answer in {PROBE_SECONDS} s"


def _probe(url: str) -> str | None:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()  # a server that refuses a HEAD request is reachable
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # huggingface_hub may trust other certificates than urllib: let it try
        return None if isinstance(reason, ssl.SSLError) else str(reason)
    return None


def _refusal(name: str, reason: str) -> ConfigError:
    return ConfigError(f"backbone: cannot get the weights {name}: {reason}\nways out: {WAYS_OUT}")
