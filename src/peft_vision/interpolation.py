"""Between a backbone as it was and as tuning left it (WiSE-FT: Wortsman et al., 2022, arXiv:2109.01903).

    theta(alpha) = before + alpha * (after - before)

`before` is what the method started from: the pretrained weights where it changes weights, with every change that can be
merged into them merged (so that a LoRA's product is scaled, and not its factors), else the method's initial values. The
head is interpolated from the one that was fitted first, where there is one, and otherwise stays the tuned one: a fresh
head knows nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from peft_vision.backbone.merge import merged
from peft_vision.config import component
from peft_vision.model import Model


@component
class Interpolation:
    """`alphas`: of the models that are scored beside the tuned one; validation chooses among them. None: none is."""

    alphas: tuple[Annotated[float, Field(ge=0, le=1)], ...]


def changed(before: Model, after: Model) -> dict[str, Tensor]:
    """The tensors of `before`, with what can be merged merged, that differ in `after`, by name."""
    with merged(before.encoder), merged(after.encoder):
        others = after.state_dict()
        return {
            name: tensor.detach().clone()
            for name, tensor in before.state_dict().items()
            if tensor.is_floating_point() and not torch.equal(tensor, others[name])
        }


@contextmanager
def between(before: Mapping[str, Tensor], after: Model) -> Iterator[Callable[[float], None]]:
    """Within the block, what this gives sets `after` to an alpha in [0, 1]; afterwards it is as it was, bit for bit.
    `before`: what `changed` found."""
    with merged(after.encoder), torch.no_grad():
        tensors = after.state_dict()
        ends = {name: tensors[name].clone() for name in before}

        def set_alpha(alpha: float) -> None:
            for name, start in before.items():
                tensors[name].copy_(start.lerp(ends[name], alpha))

        try:
            yield set_alpha
        finally:
            for name, end in ends.items():
                tensors[name].copy_(end)
