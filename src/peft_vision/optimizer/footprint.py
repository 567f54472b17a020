"""Reports the memory that an optimizer holds, and its refreshes of subspaces and skipped gradients."""

import torch
from torch import Tensor

from peft_vision.optimizer.low_rank import LowRank


def footprint(stepper: torch.optim.Optimizer) -> dict[str, float]:
    """After a step: `state_bytes` and `gradient_bytes`, and `refreshes` of subspaces with `refresh_seconds`, and
    `skipped_gradients`, those that were not finite."""
    tensors = {
        value.data_ptr(): value.nbytes
        for state in stepper.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.numel()
    }
    facts: dict[str, float] = {"state_bytes": sum(tensors.values())}
    if isinstance(stepper, LowRank):
        return {**facts, "gradient_bytes": stepper.gradient_bytes, **stepper.counts()}
    gradients = (p.grad for group in stepper.param_groups for p in group["params"] if p.grad is not None)
    held = sum(gradient.nbytes for gradient in gradients)
    return {**facts, "gradient_bytes": held, "refreshes": 0, "refresh_seconds": 0.0, "skipped_gradients": 0}
