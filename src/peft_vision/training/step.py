"""This module updates a model by one batch, in parts where the whole does not fit in memory."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from peft_vision.backbone.observation import Observation
from peft_vision.core.device_memory import is_out_of_memory
from peft_vision.core.distributed import World

_log = logging.getLogger("peft_vision")

Part = tuple[Tensor | Observation, Tensor]
"""Inputs and labels (B,) that are computed together."""


@dataclass(frozen=True)
class Batch:
    """One process's part of a batch of `size` images, divided into `parts` that are computed one after the other."""

    parts: list[Part]
    size: int

    def divided(self, parts: int) -> "Batch":
        """Return the batch, which has one part, in `parts` parts."""
        (inputs, labels) = self.parts[0]
        return Batch([*zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True)], self.size)


class Arithmetic(torch.autocast):
    """An autocast context for bf16, or one in which a GPU multiplies fp32 matrices as TF32; or neither."""

    def __init__(self, device_type: str, *, bf16: bool, tf32: bool) -> None:
        super().__init__(device_type, dtype=torch.bfloat16, enabled=bf16)
        self._tf32 = tf32
        self._before: list[str] = []

    def __enter__(self) -> "Arithmetic":
        if self._tf32:
            self._before.append(torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._tf32:
            torch.set_float32_matmul_precision(self._before.pop())

    @contextmanager
    def products(self) -> Iterator[None]:
        """Multiply as TF32 within the block where this context does, without autocast: for backward passes."""
        with Arithmetic(self.device, bf16=False, tf32=True) if self._tf32 else nullcontext():
            yield


@dataclass
class Update:
    """A function that updates a model once, from a batch and a learning rate, and returns this process's part of the
    mean loss over the batch, without the penalty.

    `compute`: the model as a step calls it. `loss`: of outputs and labels, the sum over the images. `penalty`: a term
    added to the loss. `divides`: whether batches come in one part, of which `parts` are made; out of memory, their
    number is doubled. `release`: frees memory that inputs take, and returns whether there was any; None where a step
    that ran out of memory cannot be computed again.
    """

    compute: nn.Module
    stepper: torch.optim.Optimizer
    world: World
    arithmetic: Arithmetic
    loss: Callable[[Tensor, Tensor], Tensor]
    clip_norm: float | None
    penalty: Callable[[], Tensor] | None
    divides: bool
    release: Callable[[], bool] | None
    parts: int = 1

    def __call__(self, batch: Batch, lr: float | Tensor) -> Tensor:
        set_rates(self.stepper, lr)
        with self.arithmetic.products():
            loss = self._backward(batch) if self.release is None else self._backward_that_fits(batch)
            clip(self.stepper, self.clip_norm)
            self.stepper.step()
        return loss

    def _backward_that_fits(self, batch: Batch) -> Tensor:
        """Compute the gradient; out of memory, free what inputs take, or else divide the batch further, and try again
        with the same random numbers. Raise the error where nothing is left to try."""
        earlier, random = self.parts, _random_states(self.world.device)
        while True:
            parts = batch.divided(min(self.parts, batch.size)) if self.divides else batch
            try:
                loss = self._backward(parts)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)  # whose frames hold the activations
            self.stepper.zero_grad(set_to_none=True)
            if self.release():
                _log.warning(
                    "memory    the inputs leave too little of the device's; each batch is copied there instead"
                )
            elif self.divides and self.parts < batch.size:
                self.parts *= 2
            else:
                raise failure
            _set_random_states(self.world.device, random)
            if self.world.device.type != "cpu":
                torch.get_device_module(self.world.device).empty_cache()
        if self.parts > earlier:
            _log.warning(
                "memory    a batch of %d does not fit; it is computed in parts, as with trainer.accumulate=%d",
                batch.size,
                self.parts,
            )
        return loss

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradient of the mean loss over the batch, and return this process's part of it."""
        self.stepper.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.world.device)
        for number, (inputs, labels) in enumerate(batch.parts):
            last = number == len(batch.parts) - 1
            with self._postponed() if not last else nullcontext():
                with self.arithmetic:
                    outputs = self.compute(inputs)
                part = self.loss(outputs.float(), labels)
                # the processes' gradients are averaged, so each one's sum is taken `size` times
                objective = part * (self.world.size / batch.size)
                if last and self.penalty is not None:
                    objective = objective + self.penalty()
                objective.backward()
            loss += part.detach() / batch.size
        return loss

    def _postponed(self) -> AbstractContextManager[None]:
        """Return a context in which processes do not share their gradients."""
        return self.compute.no_sync() if self.world.size > 1 else nullcontext()


def set_rates(stepper: torch.optim.Optimizer, lr: float | Tensor) -> None:
    """Let the next step have this learning rate, times the factor of a group that has one."""
    for group in stepper.param_groups:
        group["lr"] = lr * group["lr_factor"] if "lr_factor" in group else lr


def clip(stepper: torch.optim.Optimizer, norm: float | None) -> None:
    """Shorten the gradient of all that the optimizer steps to a norm, if one is given."""
    if norm is not None:
        trained = [parameter for group in stepper.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, norm)


def normalises_batches(model: nn.Module) -> bool:
    """Return whether the statistics of a batch are used and kept, so that a step computed twice counts it twice."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def _random_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_states(device: torch.device, states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
