"""This module loads batches in processes, and says in the user's words what goes wrong there.

A process may be killed while it sends a batch, or while the training uses an earlier one. PyTorch's own handler raises
an error for it at whatever the main thread is doing; here it is raised where the next batch is asked for.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

from peft_vision.core.config import ConfigError


def by_processes(batches: Dataset, processes: int) -> Iterator[Tensor]:
    """Yield the batches, loaded by `processes` processes. ConfigError if one of them raises it or is killed."""
    with _heard():  # PyTorch's own handler is set in here, and left with it
        loaded = iter(
            DataLoader(
                _Told(batches),
                batch_size=None,  # an item is a batch
                collate_fn=_sent,
                num_workers=processes,
                generator=torch.Generator(),  # else the loader draws its base seed from the global generator
                multiprocessing_context="fork" if sys.platform == "linux" else None,  # shares pixels uncopied
            )
        )
    while (batch := _next(loaded, processes)) is not None:
        yield torch.as_tensor(batch)


def _next(loaded: Iterator[Tensor | np.ndarray | ConfigError], processes: int) -> Tensor | np.ndarray | None:
    """Return the next batch, or None after the last."""
    try:
        with _heard():
            batch = next(loaded, None)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ConfigError(
            "data.workers: a process that decodes pictures was killed, as happens where memory runs out\n"
            f"start the same command again, with data.workers below {processes}; 0 decodes without processes"
        ) from error
    if isinstance(batch, ConfigError):
        raise batch
    return batch


@contextmanager
def _heard() -> Iterator[None]:
    """Raise RuntimeError in the block if a process of a loader is killed, or was before: no batch may come then, or
    half of one, for which PyTorch would wait forever."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    before = signal.getsignal(signal.SIGCHLD)

    def tell(number: int, frame: FrameType | None) -> None:
        _error_if_any_worker_fails()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGCHLD, tell)
    try:
        _error_if_any_worker_fails()
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


class _Told(Dataset):
    """The batches, with a ConfigError in the place of one that cannot be made: PyTorch would send the traceback in its
    message."""

    def __init__(self, batches: Dataset) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor | ConfigError:
        try:
            return self.batches[number]
        except ConfigError as error:
            return error


def _sent(batch: Tensor | ConfigError) -> Tensor | np.ndarray | ConfigError:
    """Return a batch in shared memory or, if that is too small, as in many containers, as an array, which is sent
    through a pipe. PyTorch alone would lose the batch, and its receiver would wait forever."""
    if isinstance(batch, ConfigError):
        return batch
    try:
        return batch.share_memory_()
    except RuntimeError:
        return batch.numpy()
