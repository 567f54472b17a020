"""Records what a result depends on besides its config (versions, machine, commit), and the memory that it cost.

No failure here may end a run: what cannot be found out is None.
"""

import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from peft_vision import __version__

_STATUS = Path("/proc/self/status")  # Linux
_PATIENCE = 20  # seconds for git, whose folder may lie on a disk that is asleep
PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "numpy", "pillow")


def environment(device: torch.device, world_size: int) -> dict[str, str | int | None]:
    """Versions, platform, device and, in a git checkout, the commit of this source; None where it cannot be told."""
    return {
        "python": platform.python_version(),
        "peft-vision": __version__,
        **{package: _told(partial(version, package)) for package in PACKAGES},
        "platform": _told(platform.platform),
        "device": _told(partial(torch.cuda.get_device_name, device)) if device.type == "cuda" else device.type,
        "processes": world_size,
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }


def _told(ask: Callable[[], str]) -> str | None:
    try:
        return ask()
    except Exception:  # a package under another name, a driver that fails: no fault of the run
        return None


def git_commit() -> str | None:
    """The commit of the checkout this source lies in, with "+changes" where it was edited; None from a wheel, and where
    git is not installed or does not answer."""
    source = Path(__file__).resolve().parent
    if source.parent.name != "src":
        return None
    try:
        described = subprocess.run(
            ["git", "-C", source, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def forget_peak(device: torch.device) -> None:
    """Begins `peak_mib` anew, where that can be done: on a GPU, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the most resident memory so far becomes the present one


def peak_mib(device: torch.device) -> float | None:
    """The most memory held since `forget_peak`: on a GPU what torch allocated there, else all that this process had
    resident, libraries included. None where the system does not tell."""
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
    """The highest peak of several processes, None where none of them was told."""
    return max((mib for mib in parts if mib is not None), default=None)
