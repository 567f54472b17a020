"""This module exchanges saved runs with the Hugging Face hub: `push` uploads the files of a folder as one commit, and
`fetched` downloads a run, `hf-hub:owner/name[@revision]`, to the hub's cache.

Every refusal is a line that says what to do, and no line holds the token, not even one in which a server repeats it.
The files that are pushed stay where they were, so that a push which failed can be repeated.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    errors,
    get_token,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from peft_vision.backbone.hub import unreachable
from peft_vision.backbone.source import HUB
from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line

ADAPTER, CONFIG = "adapter.safetensors", "config.yaml"
_OF_THE_HUB = (".gitattributes",)  # files that the hub itself puts into a new repository
_LOGIN = "log in on this machine by `hf auth login`, or set HF_TOKEN"
_LARGE = 50 * 2**20  # bytes of an upload that shows its progress
_NAMED = 3  # files that an error names
_FAULTS = (errors.HTTPError, OSError, RuntimeError, ValueError)  # of a request, of the network, of an upload


@dataclass(frozen=True)
class Pushed:
    """The outcome of a push. `url`: of the repository; `private`: as the hub has it; `is_new`: False if the hub had the
    same files already."""

    url: str
    private: bool
    is_new: bool


def check_repository(name: str) -> None:
    """Raise ConfigError unless `name` can be a repository of the hub, owner/name."""
    owner, slash, _ = name.partition("/")
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        owner = ""
    if not owner or not slash:
        raise ConfigError(f"task.repo: got {name!r}, should be owner/name, such as me/flowers-lora")


def check_access() -> None:
    """Raise ConfigError if the hub cannot be reached, or this machine has no token for it."""
    if (obstacle := unreachable(constants.ENDPOINT)) is not None:
        raise ConfigError(
            f"task.repo: no network to {constants.ENDPOINT} ({obstacle})\ntask.dry_run=true writes the folder only"
        )
    if get_token() is None:
        raise ConfigError(f"task.repo: no token for {constants.ENDPOINT}; {_LOGIN}")


def push(folder: Path, files: Sequence[str], repository: str, *, private: bool, replace: bool) -> Pushed:
    """Upload `files` of `folder` as one commit, to a repository that is created where there is none. Raise ConfigError
    if the hub refuses it, if the repository holds other content and `replace` is False, or if it is public and
    `private` is True."""
    api = HfApi(endpoint=constants.ENDPOINT, library_name="peft-vision")
    url = f"{constants.ENDPOINT}/{repository}"
    size = sum((folder / name).stat().st_size for name in files)
    with _refusals(repository, folder), _calm(bars=size > _LARGE):
        try:
            found = api.repo_info(repository, files_metadata=True)
        except errors.RepositoryNotFoundError:
            found = None
            api.create_repo(repository, private=private)
        if found is not None:
            if private and not found.private:
                raise ConfigError(f"task.repo: {url} is public; task.private=false pushes to it")
            there = {file.rfilename: file for file in found.siblings or () if file.rfilename not in _OF_THE_HUB}
            equal = {name for name in there if name in files and _is_same(there[name], (folder / name).read_bytes())}
            if others := sorted(there.keys() - equal):
                _refuse_others(url, others, replace=replace)
            elif equal == set(files):
                return Pushed(url, private=bool(found.private), is_new=False)
        api.create_commit(
            repository,
            [CommitOperationAdd(name, str(folder / name)) for name in files],
            commit_message="Upload an adapter by peft-vision",
            parent_commit=None if found is None else found.sha,  # so that nobody's commit in between is overwritten
        )
    return Pushed(url, private=private if found is None else bool(found.private), is_new=True)


def _refuse_others(url: str, others: Sequence[str], *, replace: bool) -> None:
    if not replace:
        named = ", ".join([*map(one_line, others[:_NAMED]), *["..."] * (len(others) > _NAMED)])
        raise ConfigError(
            f"task.repo: {url} holds other content ({named})\n"
            "task.replace=true puts this run's files over files of the same name, and leaves all others"
        )


def _is_same(remote: object, content: bytes) -> bool:
    """Return whether a file of the hub, in LFS or in git, holds this content."""
    if (lfs := remote.lfs) is not None:
        return lfs.sha256 == hashlib.sha256(content).hexdigest()
    return remote.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _calm(*, bars: bool) -> Iterator[None]:
    """Keep the hub's client from logging every request within the block, and from showing progress unless `bars`."""
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    shown = not are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    if shown and not bars:
        disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown and not bars:
            enable_progress_bars()


@contextmanager
def _refusals(repository: str, folder: Path) -> Iterator[None]:
    """Raise ConfigError, in one clear line, for what the hub or the network refuses within the block."""
    try:
        yield
    except ConfigError:
        raise
    except _FAULTS as error:
        raise ConfigError(
            f"task.repo: {_reason(repository, error)}\nnothing is lost: {folder} has all files, and the same command "
            "pushes them again"
        ) from None  # the chain holds requests with their headers


def _reason(repository: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    owner = repository.partition("/")[0]
    match None if response is None else response.status_code:
        case 401:
            return f"{constants.ENDPOINT} does not accept this token (401); {_LOGIN}"
        case 403:
            return f"this token may not write to {repository} (403); it needs the right to write for {owner}"
        case 409 | 412:
            return f"{repository} has changed meanwhile ({response.status_code}); start the same command again"
        case None:
            return f"the upload to {constants.ENDPOINT}/{repository} broke off: {_said(error)}"
        case status:
            return f"{constants.ENDPOINT} refuses {repository} ({status}): {_said(error)}"


def _said(error: Exception) -> str:
    """Return what an error, or else the one that caused it, says in one line without the token."""
    text = one_line(getattr(error, "server_message", None) or str(error.__cause__ or error) or type(error).__name__)
    try:
        token = get_token()
    except Exception:  # a token that cannot be renewed is none that could be printed
        token = None
    return text.replace(token, "(token)") if token else text


def fetched(name: str, files: Sequence[str] = (ADAPTER,)) -> Path:
    """Return the folder of the hub's cache with these files of the run `name`, hf-hub:owner/name[@revision], all of one
    commit. Without a network it is the one that was downloaded last. Raise ConfigError if it cannot be had."""
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        cached = [try_to_load_from_cache(repository, file, revision=revision or None) for file in files]
    except errors.HFValidationError as error:
        raise ConfigError(f"run: {name!r} is not {HUB}owner/name, as the hub names a run") from error
    url = f"{constants.ENDPOINT}/{repository}"
    if (obstacle := unreachable(constants.ENDPOINT)) is not None:
        if not all(isinstance(path, str) for path in cached):
            raise ConfigError(
                f"run: {repository} is not in {constants.HF_HUB_CACHE}, and no network to {url} ({obstacle})"
            )
        return Path(cached[0]).parent
    commit = revision or None
    try:
        with _calm(bars=True):
            for file in files:
                folder = Path(hf_hub_download(repository, file, revision=commit, library_name="peft-vision")).parent
                commit = folder.name  # the name of the cache's folder for one commit
    except errors.GatedRepoError:
        raise ConfigError(f"run: {url} is gated; accept its terms on that page, then {_LOGIN}") from None
    except errors.RepositoryNotFoundError:
        raise ConfigError(f"run: the hub has no {repository}, or it is private; if it is private, {_LOGIN}") from None
    except errors.RevisionNotFoundError:
        raise ConfigError(f"run: {url} has no revision {one_line(revision)!r}") from None
    except errors.RemoteEntryNotFoundError:
        raise ConfigError(f"run: {url} has no {file}, which task=push writes") from None
    except (errors.HTTPError, OSError, ValueError) as error:
        raise ConfigError(f"run: {url} failed: {_said(error)}") from None
    return folder
