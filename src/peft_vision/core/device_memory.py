"""This module decides how much of a device's memory inputs may take, and words the error for a device without room."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from peft_vision.core.config import ConfigError

GiB = Annotated[float, Field(ge=0)]
DeviceGiB = GiB | Literal["auto"]
"""A limit in GiB, or auto: a quarter of what is free on a GPU, and nothing elsewhere."""
InputKind = Literal["data", "features"]
"""The config group whose `device_memory_gib` is the limit for an input."""
SMALLER_PASS = "set a smaller trainer.eval_batch_size, features.device_memory_gib=0 or data.device_memory_gib=0"
"""The words that say what to set if a forward pass without gradients needs too much memory."""
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


Pair = tuple[Any, Tensor]
"""The inputs of a batch, a tensor or something with the methods of one that are used here, and its labels (B,)."""
_AHEAD = 2  # batches that wait on the device
_PATIENCE = 0.1  # seconds after which a thread looks whether it is still wanted
_CHUNK = 2**15  # images whose numbers move at a time


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device`; a copy to a GPU does not wait for the work that it has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def on_device(batches: Iterator[Pair], device: torch.device) -> Iterator[Pair]:
    """Yield the batches on `device`; those that are there already pass unchanged."""
    first = next(batches, None)  # here, not in the thread: a loader forks its processes at the first batch
    if first is None:
        return
    batches = chain([first], batches)
    if device.type == "cuda" and first[1].device.type == "cpu":
        yield from ahead(batches, *_copy_stream(device))
        return
    for inputs, labels in batches:
        yield inputs.to(device), labels.to(device)


def ahead(batches: Iterator[Pair], send: Callable[[Pair], Any], receive: Callable[[Any], Pair]) -> Iterator[Pair]:
    """Yield `receive(send(batch))` of each batch, in order. A thread calls `send`, some batches ahead; what it raises
    is raised here, and it has ended when this generator has."""
    waiting: Queue[Any] = Queue(maxsize=_AHEAD)
    unwanted = Event()

    def put(item: Any) -> None:
        while not unwanted.is_set():
            try:
                return waiting.put(item, timeout=_PATIENCE)
            except Full:
                continue

    def fetch() -> None:
        try:
            for pair in batches:
                put((send(pair), None))
                if unwanted.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # of the loader, or a lack of memory: it belongs to whoever asks for batches
            put((None, error))

    thread = Thread(target=fetch, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield receive(item)
    finally:
        unwanted.set()
        while not waiting.empty():
            with suppress(Empty):
                waiting.get_nowait()
        thread.join()


def _copy_stream(device: torch.device) -> tuple[Callable[[Pair], Any], Callable[[Any], Pair]]:
    """Return `send` and `receive` for `ahead`, which copy batches to a GPU on a stream of their own."""
    stream = torch.cuda.Stream(device)

    def send(pair: Pair) -> tuple[Pair, torch.cuda.Event]:
        locked = [value.pin_memory() for value in pair]
        with torch.cuda.stream(stream):
            inputs, labels = (value.to(device, non_blocking=True) for value in locked)
            return (inputs, labels), stream.record_event()

    def receive(item: tuple[Pair, torch.cuda.Event]) -> Pair:
        pair, copied = item
        computes = torch.cuda.current_stream(device)
        computes.wait_event(copied)
        for value in pair:
            value.record_stream(computes)  # its memory is reused only after the work that is queued there
        return pair

    return send, receive


def numbers_on(
    device: torch.device,
    index_batches: Sequence[Tensor],
    numbers: Callable[[Tensor], Tensor],
    moved: Callable[[int], None],
) -> Iterator[Tensor]:
    """Yield for each (B,) of indices the numbers (K, B) int64 that `numbers` computes from it, on `device`. Those of
    thousands of images are computed and moved at once; `moved` is told the bytes."""
    waiting: list[Tensor] = []
    count = 0
    for place, batch in enumerate(index_batches):
        waiting.append(batch)
        count += len(batch)
        if count < _CHUNK and place + 1 < len(index_batches):
            continue
        columns = numbers(torch.cat(waiting))
        moved(columns.nbytes)
        yield from sent(columns, device).split([*map(len, waiting)], dim=1)
        waiting, count = [], 0
