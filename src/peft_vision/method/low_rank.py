"""This module computes a linear layer with low-rank updates of a fixed weight as one product.

    outputs = inputs (W + scale * up @ down)^T + bias
    d inputs = d outputs W + scale * (d outputs up) down
    d down = scale * (d outputs up)^T inputs,    d up = scale * d outputs^T (inputs down^T)

The updated weight is a small matrix, so adding the updates to it saves a second pass over the outputs; of the
activations only the inputs are kept for the backward pass. Each update applies to its `rows`, a range of outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class Updated(torch.autograd.Function):
    """An autograd function of inputs (..., I), of weight (O, I) and bias (O,) that do not train, and, for each of
    `rows`, of a `down` (rank, I) followed by an `up` (rows, rank)."""

    @staticmethod
    def forward(
        ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None, scale: float, rows: list[slice], *updates: Tensor
    ) -> Tensor:
        """Return the outputs (..., O)."""
        ctx.scale, ctx.rows = scale, rows
        ctx.save_for_backward(inputs, weight, *updates)
        updated = weight.clone()
        for target_rows, (down, up) in zip(rows, _pairs(updates), strict=True):
            updated[target_rows].addmm_(up, down, alpha=scale)
        return F.linear(inputs, updated, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs and of the updates; None for the other arguments."""
        inputs, weight, *updates = ctx.saved_tensors
        gradient, flat = gradient.flatten(0, -2), inputs.flatten(0, -2)
        of_inputs = gradient @ weight if ctx.needs_input_grad[0] else None
        of_updates: list[Tensor] = []
        for target_rows, (down, up) in zip(ctx.rows, _pairs(updates), strict=True):
            low = gradient[:, target_rows] @ up
            of_updates += [
                ctx.scale * low.mT @ flat,
                ctx.scale * gradient[:, target_rows].mT @ (flat @ down.mT),
            ]
            if of_inputs is not None:
                of_inputs.addmm_(low, down, alpha=ctx.scale)
        return None if of_inputs is None else of_inputs.view_as(inputs), None, None, None, None, *of_updates


def _pairs(updates: list[Tensor] | tuple[Tensor, ...]) -> zip:
    return zip(updates[::2], updates[1::2], strict=True)
