"""This module detects the agent of a W&B sweep, which starts this command for a run it chose and awaits its figures."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
