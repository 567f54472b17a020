"""This module gets weights of the Hugging Face hub: from the local cache without a network, otherwise by a download
that fails early."""

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread

from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

from peft_vision.core.config import ConfigError

FILES = ("model.safetensors", "pytorch_model.bin")  # timm's file names, in order of preference
PROBE_SECONDS = 5
WAYS_OUT = "backbone.checkpoint=FILE (safetensors, npz or torch), or experiment=demo, which needs no network"


def hub_file(name: str, repository: str) -> Path:
    """Return the local path of the weights `name`. A cached file is used without any request. Raise ConfigError where
    the file cannot be downloaded."""
    cached = [try_to_load_from_cache(repository, file) for file in FILES]
    found = next((path for path in cached if isinstance(path, str)), None)
    return Path(found) if found else _download(name, repository)


def _download(name: str, repository: str) -> Path:
    where = f"{constants.ENDPOINT}/{repository}"
    obstacle = unreachable(constants.ENDPOINT)
    if obstacle is not None:
        raise _refusal(name, f"not in {constants.HF_HUB_CACHE}, and no network to {where} ({obstacle})")
    for file in FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):  # raised when the network breaks
                raise _refusal(name, f"the download from {where} broke off") from error
        except (OSError, errors.HTTPError) as error:
            raise _refusal(name, f"{where} failed: {str(error).splitlines()[0]}") from error
    raise _refusal(name, f"{where} has neither {' nor '.join(FILES)}")


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
