"""A W&B sweep's agent: it starts this command, for a run of W&B's that it chose, and waits for its figures."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


def awaited_run() -> tuple[str, str | None] | None:
    """The agent's sweep and the run that it chose; None where no agent has started this process."""
    sweep, run = (os.environ.get(name) or None for name in _VARIABLES[:2])
    return None if sweep is None else (sweep, run)


@contextmanager
def out_of_sight() -> Iterator[None]:
    """Within, trackers and processes know of no agent, so that each of several runs has a run of W&B's of its own."""
    hidden = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
