"""This module divides each batch among torchrun's processes on one node, or gives all of it to a single process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.process_variables import ranks
from peft_vision.core.stopping import follow_launcher


@dataclass(frozen=True)
class World:
    """This process is number `rank` of `size` and computes on `device`; rank 0 writes files and prints."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True if this process writes files and prints."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """Return this process's part of a batch; the parts of all processes together are the batch."""
        return indices[self.rank :: self.size]

    def gather(self, value: Any) -> list[Any]:
        """Return every process's `value`, by rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def agree(self, value: Any) -> Any:
        """Return rank 0's `value` on every process."""
        return self.gather(value)[0]


@contextmanager
def world(device: str) -> Iterator[World]:
    """Join the other processes if torchrun started this one, and yield its World. `device`: auto, cpu, cuda, cuda:1 or
    mps. Raise ConfigError for a device that is not available, or for variables that are not what torchrun sets."""
    process_ranks = ranks()
    if process_ranks.size == 1:
        yield World(rank=0, size=1, device=choose_device(device, local_rank=0))
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        follow_launcher()
    chosen = choose_device(device, local_rank=process_ranks.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=process_ranks.size, device=chosen)
    finally:
        dist.destroy_process_group()


def choose_device(name: str, *, local_rank: int) -> torch.device:
    """Return a torch device: for auto a GPU if there is one, else mps, else cpu; a GPU without a number is the local
    rank's. Raise ConfigError for a device that is unknown or not available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: got {name!r}, should be auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name} asked for, but this torch sees no GPU; use device=cpu or device=auto")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"device: {name} asked for, but the last GPU that this torch sees is cuda:{count - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: mps asked for, but this torch has none; use device=cpu or device=auto")
    if device.type == "cuda" and device.index is None:
        if local_rank >= (count := torch.cuda.device_count()):
            fault = f"process {local_rank} of this machine has no GPU, this torch sees {count}"
            raise ConfigError(f"device: {fault}; --nproc-per-node={count}, or device=cpu")
        return torch.device("cuda", local_rank)
    return device
