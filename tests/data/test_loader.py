"""Batches from processes: what goes wrong in one is said where the next batch is asked for, in the user's words."""

import multiprocessing
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from peft_vision.core.config import ConfigError
from peft_vision.data import loader
from peft_vision.data.images import Images
from peft_vision.data.loader import by_processes


class Large(Dataset):
    """Batches that fill a pipe several times over."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.full((2**20,), number, dtype=torch.uint8)


@pytest.mark.parametrize("through_pipes", [False, True])
def test_a_process_that_is_killed_during_a_step_is_said_at_the_next_batch(through_pipes, monkeypatch):
    heard = signal.getsignal(signal.SIGCHLD)
    if through_pipes:  # the process has sent half a batch then
        monkeypatch.setattr(loader, "_sent", lambda batch: batch.numpy())
    batches = by_processes(Large(), 1)
    assert next(batches).eq(0).all()
    (process,) = multiprocessing.active_children()
    time.sleep(0.2)
    process.kill()
    time.sleep(0.2)  # the step
    with pytest.raises(ConfigError, match=r"^data.workers: a process .* was killed"):
        list(batches)
    assert signal.getsignal(signal.SIGCHLD) == heard


def test_a_process_that_is_killed_while_it_is_waited_for_is_said(monkeypatch):
    monkeypatch.setattr(Large, "__getitem__", lambda self, number: signal.raise_signal(signal.SIGKILL))
    with pytest.raises(ConfigError, match=r"^data.workers: a process .* was killed.*\n.* with data.workers below 1; 0"):
        list(by_processes(Large(), 1))


def test_the_program_hears_of_processes_of_its_own_all_the_while():
    heard = []
    before = signal.signal(signal.SIGCHLD, lambda *_: heard.append(True))
    assert [int(batch[0]) for batch in by_processes(Large(), 1)] == list(range(9))
    signal.signal(signal.SIGCHLD, before)
    assert heard  # the end of the loader's own


@pytest.mark.parametrize("workers", [0, 1])
def test_a_refusal_reads_the_same_from_a_process(workers, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(jitter=lambda image, generator: image / 255))
    images = Images(torch.arange(4), torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "mine.jitter")
    told = "data.augment: mine.jitter returned torch.float32 (3, 8, 8), should be torch.uint8 (3, 8, 8)"
    with pytest.raises(ConfigError, match=rf"\A{re.escape(told)}\Z"):
        list(images.batches(torch.arange(4).split(2), seed=0, workers=workers))
