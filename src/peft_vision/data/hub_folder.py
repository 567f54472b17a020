"""This module gets a data set's parquet files from the Hugging Face hub: from the cache without a request, else
downloaded."""

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants, errors, snapshot_download

from peft_vision.core.config import ConfigError
from peft_vision.data.download import PROBE_SECONDS, reachable

_WAYS_OUT = "fetch it where there is a network, or put its parquet files into a folder and name that instead"


def fetch(repository: str, subset: str | None, *, enough: Callable[[Path], bool]) -> Path:
    """Return the folder of the files of `subset`, or of all files. Cached files are used without a request if `enough`
    accepts them, because an interrupted download leaves only some. ConfigError if they cannot be fetched."""
    try:
        cached = _snapshot(repository, subset, local=True)
    except OSError:  # nothing or only some files are cached
        cached = None
    if cached is not None and enough(cached):
        return cached
    obstacle = _obstacle()
    if obstacle is not None:
        raise _refusal(repository, f"not, or not whole, in {constants.HF_HUB_CACHE}, and no network ({obstacle})")
    try:
        return _snapshot(repository, subset, local=False)
    except errors.RepositoryNotFoundError as error:
        raise _refusal(repository, f"{constants.ENDPOINT} has no such data set, or keeps it private") from error
    except (OSError, errors.HTTPError) as error:
        raise _refusal(repository, f"{constants.ENDPOINT} failed: {str(error).strip().splitlines()[0]}") from error


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
