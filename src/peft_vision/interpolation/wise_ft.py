"""This module interpolates between a backbone as it was and as tuning left it (WiSE-FT: Wortsman et al., 2022,
arXiv:2109.01903).

    theta(alpha) = before + alpha * (after - before)

`before` is what the method started from: the pretrained weights of everything that it changes by a change of weights,
which is merged in `after` (so that LoRA's product is scaled, and not its factors), and otherwise the method's initial
values. At alpha = 0 the backbone is thus the pretrained one with every method that can be merged; with prompts,
queries, adapters and convolutions, which no weight of a backbone computes, it is the backbone with their initial
values. The head is interpolated from the one that was fitted first, if there is one, and otherwise stays the tuned one,
since a fresh head is untrained.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from peft_vision.backbone.merge import merged, unwrapped
from peft_vision.core.config import component
from peft_vision.models.model import Model


@component
class Interpolation:
    """The models between the pretrained and the tuned one that are scored. `alphas`: one for each model, among which
    validation chooses; empty: none is scored."""

    alphas: tuple[Annotated[float, Field(ge=0, le=1)], ...]


def changed(before: Model, after: Model) -> dict[str, Tensor]:
    """Return the tensors of `before`, without what `after` can merge, that differ from those of `after` with that
    merged, by name. A bias that only merging adds counts as zero in `before`."""
    with unwrapped(before.encoder), merged(after.encoder):
        others = before.state_dict()
        ends = {name: tensor for name, tensor in after.state_dict().items() if tensor.is_floating_point()}
        starts = {name: others.get(name, torch.zeros_like(end)).to(end.device) for name, end in ends.items()}
        return {name: start.detach().clone() for name, start in starts.items() if not torch.equal(start, ends[name])}


@contextmanager
def between(before: Mapping[str, Tensor], after: Model) -> Iterator[Callable[[float], None]]:
    """Yield a function that sets `after` to an alpha in [0, 1]; after the block `after` is as it was, bit for bit.
    `before`: the result of `changed`."""
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
