"""This module reads the variables that torchrun gives each process: its rank, and how many processes there are.

Some of these variables may come from another program and not from torchrun: unless they are complete, the user is told.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peft_vision.core.config import ConfigError

_REMEDY = "start several processes by torchrun; for one, unset WORLD_SIZE, RANK and LOCAL_RANK"
_LARGEST_PORT = 2**16 - 1


@dataclass(frozen=True)
class Ranks:
    """The `rank` of a process among all `size` processes and its `local_rank` among those on this machine, from 0."""

    rank: int
    local_rank: int
    size: int


ALONE = Ranks(rank=0, local_rank=0, size=1)


def ranks() -> Ranks:
    """Return this process's ranks; raise ConfigError if the variables are incomplete or contradict each other."""
    size = number("WORLD_SIZE", least=1)
    given = {name: number(name) for name in ("RANK", "LOCAL_RANK")}
    if size is None or size == 1:
        for name, rank in given.items():
            if rank:
                contradiction = "WORLD_SIZE is not set" if size is None else "WORLD_SIZE is 1"
                raise ConfigError(f"environment: {name} is {rank}, but {contradiction}\n{_REMEDY}")
        return ALONE
    values = {**given, "MASTER_ADDR": os.environ.get("MASTER_ADDR"), "MASTER_PORT": number("MASTER_PORT", least=1)}
    if missing := [name for name, value in values.items() if value in (None, "")]:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"environment: WORLD_SIZE is {size}, but {', '.join(missing)} {verb} not set\n{_REMEDY}")
    for name, rank in given.items():
        if rank >= size:
            raise ConfigError(f"environment: {name} is {rank}, should be below WORLD_SIZE, which is {size}\n{_REMEDY}")
    if values["MASTER_PORT"] > _LARGEST_PORT:
        raise ConfigError(f"environment: MASTER_PORT is {values['MASTER_PORT']}, should be at most {_LARGEST_PORT}")
    return Ranks(rank=given["RANK"], local_rank=given["LOCAL_RANK"], size=size)


def check_alone(why: str) -> None:
    """Raise ConfigError with a message that begins with `why` if this process is one of several."""
    if ranks().size > 1:
        raise ConfigError(f"{why}; start it without torchrun")


def speaks() -> bool:
    """Return whether this process prints what all processes do: the first does, or the only one."""
    try:
        return ranks().rank == 0
    except ConfigError:  # reported where the ranks are needed
        return True


def number(name: str, *, least: int = 0) -> int | None:
    """Return an environment variable as a whole number; None if it is not set, or empty. Raise ConfigError for anything
    but a whole number from `least` on."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
        raise ConfigError(f"environment: {name} is {text[:40]!r}, should be a whole number from {least} on")
    return int(text)


_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


def awaited_run() -> tuple[str, str | None] | None:
    """Return the agent's sweep and the run that it chose; None if no agent has started this process."""
    sweep, run = (os.environ.get(name) or None for name in _VARIABLES[:2])
    return None if sweep is None else (sweep, run)


@contextmanager
def out_of_sight() -> Iterator[None]:
    """Hide the agent from trackers and processes within the block, so that each of several runs is its own W&B run."""
    hidden = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
