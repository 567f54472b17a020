"""This module replays a whole update of a model as one CUDA graph, so that the CPU launches one thing in a step.

A graph fixes shapes and addresses: a batch is copied into the tensors that the graph reads, and the learning rate is a
tensor. The first updates are plain ones, in which optimizer and libraries allocate what they keep; then the update of a
batch of this shape is recorded once. Batches of another shape, such as an epoch's last one, stay plain updates of the
same weights, by the same rounded rate. Random numbers continue in each replay, and torch.manual_seed acts as usual.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor

from peft_vision.backbone.observation import Observation
from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.training.step import Batch, Update

Mode = bool | Literal["default", "reduce-overhead", "max-autotune", "cuda_graph"]
Compile = Annotated[Mode, AfterValidator(lambda mode: True if mode == "default" else mode)]
"""False; a mode of torch.compile, of which True is the default; or cuda_graph for this module's graph of a step."""
_PLAIN = 3  # updates of a shape before it is recorded
_CAN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)

Record = Callable[[Callable[[], Tensor], torch.device], tuple[Tensor, Callable[[], Any]]]
"""A function that records what another one does on a device, without doing it, and returns the tensor that it will
return, and what does it."""


def recorded(act: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], Any]]:
    """Record a CUDA graph; other threads may go on copying batches meanwhile."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # torch's own is of the GPU that was the current one at the first graph
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        returned = act()
    return returned, graph.replay


def check_graph(stepper: torch.optim.Optimizer, world: World) -> None:
    """Raise ConfigError if an update of this optimizer on this device cannot be a graph."""
    faults = {
        f"this run computes on {world.device}, and graphs are a GPU's": world.device.type != "cuda",
        f"{world.size} processes share their gradients": world.size > 1,
        f"{type(stepper).__name__} decides in each step what to do": type(stepper) not in _CAN,
    }
    if found := [fault for fault, applies in faults.items() if applies]:
        raise ConfigError(f"trainer.compile: got cuda_graph, but {'; '.join(found)}\nset trainer.compile=false")


@dataclass
class GraphedUpdate:
    """A function like `update` that replays it as a graph once a shape of batches has been seen often enough."""

    update: Update
    record: Record = recorded
    parts: int = 1
    _seen: Counter = field(default_factory=Counter)
    _shapes: tuple | None = None  # of the recorded batch

    def __post_init__(self) -> None:
        for group in self.update.stepper.param_groups:
            if "capturable" in group:
                group["capturable"] = True
        self._lr = torch.zeros((), device=self.update.world.device)

    def __call__(self, batch: Batch, lr: float) -> Tensor:
        self._lr.fill_(lr)
        shapes = (batch.size, *(tensor.shape for tensor in _tensors(batch)))
        if self._shapes is None:
            self._seen[shapes] += 1
            if self._seen[shapes] > _PLAIN:
                self._capture(batch, shapes)
        if shapes != self._shapes:
            return self.update(batch, self._lr)
        for fixed, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
            fixed.copy_(given, non_blocking=True)
        self._replay()
        return self._loss.clone()

    def _capture(self, batch: Batch, shapes: tuple) -> None:
        self._shapes = shapes
        self._batch = Batch([(_clone(inputs), labels.clone()) for inputs, labels in batch.parts], batch.size)
        self._loss, self._replay = self.record(lambda: self.update(self._batch, self._lr), self.update.world.device)


def _tensors(batch: Batch) -> list[Tensor]:
    """Return all tensors of a batch in a fixed order."""
    found: list[Tensor] = []
    for inputs, labels in batch.parts:
        found += [*inputs.tensors(), labels] if isinstance(inputs, Observation) else [inputs, labels]
    return found


def _clone(inputs: Tensor | Observation) -> Tensor | Observation:
    return inputs.each(Tensor.clone) if isinstance(inputs, Observation) else inputs.clone()
