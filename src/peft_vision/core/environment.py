"""This module records what a result depends on besides its config (versions, machine, commit), and its peak memory.

No failure here may end a run: values that cannot be determined are None.
"""

import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from peft_vision import __version__

_STATUS = Path("/proc/self/status")  # Linux
_PATIENCE = 20  # seconds for git, whose folder may lie on a disk that is asleep
PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "numpy", "pillow")


def environment(
    device: torch.device, world_size: int, user_files: Mapping[str, Path] | None = None
) -> dict[str, str | int | Mapping[str, str | None] | None]:
    """Return versions, platform, device, the numbers of processes and threads and, in a git checkout, the commit of
    this source; None for values that cannot be determined. `user_files`: the files of the user's own classes by name,
    to which the commit of each one's checkout is added."""
    commits = {name: _commit_of(file.resolve().parent) for name, file in (user_files or {}).items()}
    return {
        "python": platform.python_version(),
        "peft-vision": __version__,
        **{package: _told(partial(version, package)) for package in PACKAGES},
        "platform": _told(platform.platform),
        "device": _told(partial(torch.cuda.get_device_name, device)) if device.type == "cuda" else device.type,
        "processes": world_size,
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        **({"user_git_commits": commits} if commits else {}),
    }


def _told(ask: Callable[[], str]) -> str | None:
    try:
        return ask()
    except Exception:  # such as a package under another name, or a failing driver: not a fault of the run
        return None


def git_commit() -> str | None:
    """Return the commit of the checkout that holds this source, with "+changes" if it was edited; None for a wheel, or
    if git is not installed or does not answer."""
    source = Path(__file__).resolve().parents[1]
    return _commit_of(source) if source.parent.name == "src" else None


def _commit_of(folder: Path) -> str | None:
    try:
        described = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def forget_peak(device: torch.device) -> None:
    """Reset the peak that `peak_mib` returns, where that is possible: on a GPU, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present resident memory


def peak_mib(device: torch.device) -> float | None:
    """Return the peak memory in MiB since `forget_peak`: on a GPU what torch allocated there, else the resident memory
    of this process, libraries included. None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = _STATUS.read_text() if _STATUS.is_file() else ""
        if high := re.search(r"VmHWM:\s+(\d+) kB", status):  # getrusage's is never less than what a parent process held
            return int(high[1]) / 2**10
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    except (OSError, ValueError):
        return None
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


def most_mib(parts: Iterable[float | None]) -> float | None:
    """Return the highest of several processes' peaks in MiB; None if none of them is known."""
    return max((mib for mib in parts if mib is not None), default=None)
