"""What a result depends on beside its config: versions, machine, commit; and what it cost in memory."""

import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from peft_vision import __version__

_STATUS = Path("/proc/self/status")  # Linux
PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "numpy", "pillow")


def environment(device: torch.device, world_size: int) -> dict[str, str | int | None]:
    """Versions, platform, device and, in a git checkout, the commit of this source."""
    return {
        "python": platform.python_version(),
        "peft-vision": __version__,
        **{package: version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world_size,
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the checkout this source lies in, with "+changes" where it was edited; None from a wheel."""
    source = Path(__file__).resolve().parent
    if source.parent.name != "src":
        return None
    described = subprocess.run(
        ["git", "-C", source, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or None


def forget_peak(device: torch.device) -> None:
    """Begins `peak_mib` anew, where that can be done: on a GPU, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the most resident memory so far becomes the present one


def peak_mib(device: torch.device) -> float:
    """The most memory held since `forget_peak`: on a GPU what torch allocated there, else all that this process had
    resident, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = _STATUS.read_text() if _STATUS.is_file() else ""
    if high := re.search(r"VmHWM:\s+(\d+) kB", status):  # getrusage's is never less than what a parent process held
        return int(high[1]) / 2**10
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)
