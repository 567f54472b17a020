"""Batches that another thread fetches are the same, and the thread ends with whoever asked for them."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.device_memory import (
    DeviceRoom,
    ahead,
    free_bytes,
    is_out_of_memory,
    needing_memory,
    numbers_on,
    on_device,
)

CPU = torch.device("cpu")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def numbered(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    return ((torch.full((2,), number), torch.tensor([number])) for number in range(count))


def fetched(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As for a GPU, with a copy in the place of the device's."""
    return ahead(numbered(count), lambda pair: [value.clone() for value in pair], lambda pair: (pair[0], pair[1]))


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_a_thread_hands_over_every_batch_in_order(count):
    assert [labels.item() for _, labels in fetched(count)] == list(range(count))
    assert threads() == []


def test_the_thread_stays_a_few_batches_ahead():
    asked = []
    batches = ahead((pair for pair in numbered(50) if asked.append(pair) is None), lambda pair: pair, lambda pair: pair)
    next(batches)
    assert len(asked) <= 5
    batches.close()
    assert threads() == []


@pytest.mark.parametrize("where", ["source", "send", "receive"])
def test_what_goes_wrong_in_the_thread_is_raised_where_batches_are_asked_for(where):
    def fail(pair: tuple) -> tuple:
        if pair[1].item() == 2:
            raise ConfigError(f"no third batch from {where}")
        return pair

    source = map(fail, numbered(9)) if where == "source" else numbered(9)
    batches = ahead(source, *(fail if where == end else (lambda pair: pair) for end in ("send", "receive")))
    seen = []
    with pytest.raises(ConfigError, match=f"no third batch from {where}"):
        seen += [labels.item() for _, labels in batches]
    assert threads() == []
    batches.close()


def test_on_a_cpu_batches_pass_as_they_are_and_no_thread_starts():
    pairs = list(numbered(3))
    moved = on_device(iter(pairs), CPU)
    assert next(moved)[0] is pairs[0][0]
    assert threads() == []
    assert len(list(moved)) == 2
    assert list(on_device(iter([]), CPU)) == []


@NEEDS_GPU
def test_a_gpu_gets_the_same_batches():
    pairs = list(zip(torch.randint(0, 256, (40, 7, 99), dtype=torch.uint8), torch.arange(280).view(40, 7), strict=True))
    for (inputs, labels), pair in zip(on_device(iter(pairs), torch.device("cuda")), pairs, strict=True):
        assert inputs.is_cuda
        assert torch.equal(inputs.cpu(), pair[0])
        assert torch.equal(labels.cpu(), pair[1])


@pytest.mark.parametrize("size", [1, 3, 40_000])
def test_numbers_are_those_of_each_batch_and_few_transfers_carry_them(size):
    batches = torch.randperm(90_000).split(size)[:2_000]
    moved = []
    columns = [*numbers_on(CPU, batches, lambda indices: torch.stack([indices, 2 * indices]), moved.append)]
    assert all(torch.equal(each, torch.stack([batch, 2 * batch])) for each, batch in zip(columns, batches, strict=True))
    assert sum(moved) == 16 * sum(map(len, batches))
    assert len(moved) <= 3


class Measured(Tensor):
    """A batch of indices; `lengths` counts how often one is asked for its length."""

    lengths = 0

    def __len__(self) -> int:
        Measured.lengths += 1
        return self.shape[0]


def test_numbers_of_many_small_batches_cost_a_fixed_time_each(monkeypatch):
    monkeypatch.setattr(Measured, "lengths", 0)
    batches = torch.arange(500).as_subclass(Measured).split(1)
    assert len([*numbers_on(CPU, batches, lambda indices: indices[None], lambda num_bytes: None)]) == 500
    assert Measured.lengths <= 4 * 500


def test_inputs_take_what_their_group_allows():
    room = DeviceRoom(CPU, {"data": 10 / 2**30, "features": "auto"})
    assert [room.take("data", size) for size in (6, 5, 4, 1)] == [True, False, True, False]
    assert not room.take("features", 1)  # auto is for a GPU
    assert free_bytes(CPU) == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried to"),
    ],
)
def test_a_lack_of_memory_is_told_in_two_lines(error):
    assert is_out_of_memory(error)
    with pytest.raises(ConfigError) as raised, needing_memory("steps of 64 images", CPU, "set batch_size=32"):
        raise error
    assert str(raised.value) == "device: cpu has no memory left for steps of 64 images\nset batch_size=32"


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes") as raised, needing_memory("a step", CPU, "set something"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(raised.value)


def test_torch_itself_says_so_on_a_cpu():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
