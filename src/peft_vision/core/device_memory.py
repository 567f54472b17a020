"""This module decides how much of a device's memory inputs may take, and words the error for a device without room."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field

from peft_vision.core.config import ConfigError

GiB = Annotated[float, Field(ge=0)]
DeviceGiB = GiB | Literal["auto"]
"""A limit in GiB, or auto: a quarter of what is free on a GPU, and nothing elsewhere."""
InputKind = Literal["data", "features"]
"""The config group whose `device_memory_gib` is the limit for an input."""
SMALLER_PASS = "set a smaller trainer.eval_batch_size, features.device_memory_gib=0 or data.device_memory_gib=0"
"""What to set if a forward pass without gradients needs too much memory."""
_AUTO_SHARE = 0.25
_CPU_MESSAGES = (
    "not enough memory",
    "can't allocate memory",
)  # of torch's CPU allocator, which has no error of its own


class DeviceRoom:
    """The memory of `device` that is left for inputs, under the limits of both config groups."""

    def __init__(self, device: torch.device, limits: Mapping[InputKind, float | Literal["auto"]]) -> None:
        self.device = device
        self._limits = limits
        self._taken: dict[InputKind, int] = {"data": 0, "features": 0}

    def take(self, kind: InputKind, num_bytes: int) -> bool:
        """Return whether inputs of this size may be moved to the device; if so, their bytes are taken."""
        limit = self._limits[kind]
        room = _AUTO_SHARE * free_bytes(self.device) if limit == "auto" else limit * 2**30 - self._taken[kind]
        if num_bytes > room:
            return False
        self._taken[kind] += num_bytes
        return True


def free_bytes(device: torch.device) -> float:
    """Return the bytes that a tensor could take on a GPU: what is free, and what torch keeps to reuse; 0 for other
    devices, which share their memory with the CPU."""
    if device.type != "cuda":
        return 0.0
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch raised the error because a device, or the CPU, has no memory left."""
    of_cpu = isinstance(error, RuntimeError) and any(message in str(error) for message in _CPU_MESSAGES)
    return isinstance(error, torch.OutOfMemoryError) or of_cpu


@contextmanager
def needing_memory(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Raise a ConfigError of two lines if the block runs out of memory. `what` needs it; `remedy`: what to set."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"device: {device} has no memory left for {what}\n{remedy}") from error
