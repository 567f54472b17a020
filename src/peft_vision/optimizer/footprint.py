"""This module reports the memory that an optimizer holds, its refreshes of subspaces and its skipped gradients."""

import torch
from torch import Tensor

from peft_vision.optimizer.low_rank import LowRankProjection


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
