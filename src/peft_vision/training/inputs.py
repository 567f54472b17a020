"""This module provides the inputs of a training on the device that computes: they lie there if they fit, and otherwise
move there batch by batch, while the device works on earlier ones. The batches are the same, bit for bit."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from peft_vision.core.device_memory import DeviceRoom, InputKind, is_out_of_memory, on_device
from peft_vision.data.device_images import DeviceImages, device_bytes
from peft_vision.data.images import Images, Source
from peft_vision.models.observations import FeatureTable, Observed

_Placed = DeviceImages | Observed | FeatureTable


class Inputs(Source):
    """The inputs of `source`, whose batches lie on the device of `room`. `moved_bytes` counts what moved to that device
    for the `num_batches` that were yielded, without what lies there from the start."""

    def __init__(self, source: Source, room: DeviceRoom) -> None:
        self.whole_mask, self.windows = source.whole_mask, source.windows
        self.num_batches = 0
        self._source = source
        self._device = room.device
        self._streamed_bytes = 0
        self._placed = _placed(source, room)
        self._placed_bytes = 0

    def __len__(self) -> int:
        return len(self._source)

    @property
    def labels(self) -> Tensor:
        """Return the labels of the source, where they lie."""
        return self._source.labels

    @property
    def lie_on_device(self) -> bool:
        """True if the inputs lie on the device, and only indices move."""
        return self._placed is not None

    @property
    def moved_bytes(self) -> int:
        """Return how many bytes have moved for batches."""
        return self._streamed_bytes + (self._placed_bytes if self._placed is None else self._placed.moved_bytes)

    def record(self) -> dict[str, Any]:
        """Return where the inputs lie, and the mean bytes that moved for a batch, for the result file."""
        place = "device" if self.lie_on_device else "host"
        return {"lie_on": place, "bytes_per_batch": self.moved_bytes / max(1, self.num_batches)}

    def release(self) -> bool:
        """Free what lies on the device; from now on inputs move there batch by batch. Return whether any was freed."""
        if self._placed is None:
            return False
        self._placed_bytes = self._placed.moved_bytes
        self._placed.clear()
        self._placed = None
        return True

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[object, Tensor]]:
        """Yield for each (B,) of indices what the source yields, on the device."""
        done = 0
        if self._placed is not None:
            for pair in self._placed.batches(index_batches, seed=seed, workers=workers):
                done += 1
                self.num_batches += 1
                yield pair
                if self._placed is None:  # released meanwhile
                    break
        if done == len(index_batches):
            return
        batches = self._source.batches(index_batches[done:], seed=seed, workers=workers)
        for inputs, labels in on_device(batches, self._device):
            self.num_batches += 1
            self._streamed_bytes += 0 if self._device.type == "cpu" else inputs.nbytes + labels.nbytes
            yield inputs, labels


def released(*inputs: Inputs | None) -> bool:
    """Release all of the inputs, and return whether any memory was freed."""
    freed = [each.release() for each in inputs if each is not None]
    return any(freed)


def _placed(source: Source, room: DeviceRoom) -> _Placed | None:
    """Return the source on the device, or None if it does not fit there or is made on the CPU."""
    kind: InputKind = "data" if isinstance(source, Images) else "features"
    try:
        match source:
            case Images() if (needed := device_bytes(source)) is not None and room.take(kind, needed):
                return DeviceImages(source, room.device)
            case Observed() | FeatureTable() if room.take(kind, source.num_bytes):
                return source.on(room.device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        torch.get_device_module(room.device).empty_cache()
    return None
