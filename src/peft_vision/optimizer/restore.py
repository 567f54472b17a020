"""This module restores the state of an optimizer, or raises Damaged where it does not fit.

torch accepts whatever state it is given: it casts other types to the parameters', and other shapes fail only at the
first step.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.tensor_files import Damaged
from peft_vision.optimizer.low_rank import LowRankProjection

_KNOWN = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    LowRankProjection,
)  # the state of other optimizers is unknown
_NUMBERS = ("step", "full_rank_norm")


def restore(stepper: torch.optim.Optimizer, saved: Any) -> None:
    """Load `saved` into the optimizer. Raise Damaged where it is not the state of such an optimizer of such parameters,
    and ConfigError where it is of other options."""
    try:
        parameters = list(chain.from_iterable(group["params"] for group in stepper.param_groups))
        numbers = list(chain.from_iterable(group["params"] for group in saved["param_groups"]))
        states = [saved["state"].get(number, {}) for number in numbers]
        misfits = [
            f"{key} of {tuple(value.shape)} for {tuple(parameter.shape)}, in {value.dtype}"
            for parameter, state in zip(parameters, states, strict=False)
            for key, value in state.items()
            if isinstance(value, Tensor) and not _fits(key, value, parameter, state)
        ]
        stepper.load_state_dict(saved)
    except ConfigError:
        raise
    except Exception as error:  # malformed state may raise anything
        raise Damaged(f"its optimizer is none of this run's ({type(error).__name__})") from error
    if misfits and isinstance(stepper, _KNOWN):
        raise Damaged(f"its optimizer is none of this run's ({misfits[0]})")


def _fits(key: str, value: Tensor, parameter: Tensor, state: Mapping[str, Any]) -> bool:
    """Return whether `value` has the shape and type of the state that is kept for `parameter` under `key`."""
    if key in _NUMBERS:
        return value.shape == () and value.is_floating_point()
    if key.endswith("_scales"):
        return value.ndim == 1 and value.dtype == torch.float32
    if key in ("left", "right"):
        side = parameter.flatten(1).shape[key == "right"]
        return value.ndim == 2 and len(value) == side and value.dtype == parameter.dtype
    dtype = torch.uint8 if f"{key}_scales" in state else parameter.dtype
    return value.shape == _shape(parameter, state.get("left"), state.get("right")) and value.dtype == dtype


def _shape(parameter: Tensor, left: Tensor | None, right: Tensor | None) -> torch.Size:
    """Return the shape of a moment: the parameter's own, or that of its coordinates in a subspace."""
    if left is None and right is None:
        return parameter.shape
    rows, columns = parameter.flatten(1).shape
    return torch.Size([rows if left is None else left.shape[1], columns if right is None else right.shape[1]])


def footprint(stepper: torch.optim.Optimizer) -> dict[str, float]:
    """Return, after a step, `state_bytes`, `gradient_bytes`, the number of `refreshes` of subspaces, their
    `refresh_seconds`, and the number of `skipped_gradients`, which were not finite."""
    tensors = {
        value.data_ptr(): value.nbytes
        for state in stepper.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.numel()
    }
    facts: dict[str, float] = {"state_bytes": sum(tensors.values())}
    if isinstance(stepper, LowRankProjection):
        return {**facts, "gradient_bytes": stepper.gradient_bytes, **stepper.counts()}
    gradients = (p.grad for group in stepper.param_groups for p in group["params"] if p.grad is not None)
    held = sum(gradient.nbytes for gradient in gradients)
    return {**facts, "gradient_bytes": held, "refreshes": 0, "refresh_seconds": 0.0, "skipped_gradients": 0}
