"""Matrices with made-up gradients, for tests of the optimizer that projects them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peft_vision.optimizer.low_rank import Following, LowRankProjection
from peft_vision.optimizer.projection import Subspaces
from peft_vision.optimizer.rule import AdamRule, Rule

SHAPES = ((12, 8), (8, 12), (8, 8))
ADAM = AdamRule(betas=(0.9, 0.999), eps=1e-8, eps_first=False)


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES, *, seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def optimizer(
    matrices: Sequence[nn.Parameter],
    others: Sequence[nn.Parameter] = (),
    *,
    rule: Rule = ADAM,
    rank: int = 3,
    side: str = "std",
    algorithm: str = "svd",
    bits: int = 32,
    lr: float = 0.01,
    weight_decay: float = 0.1,
    decay_first: bool = True,
    lapack_signs: bool = False,
    seed: int = 0,
    **options: Any,
) -> LowRankProjection:
    """Of the default behaviour, with a refresh every three steps."""
    usual = {
        "gap": 3,
        "adaptive_gap": None,
        "staggered": False,
        "moments": "rotate",
        "scale": 1.0,
        "update": "low_rank",
        "bits": bits,
        "seed": seed,
    }
    return LowRankProjection(
        matrices,
        [{"params": list(others), "weight_decay": weight_decay}] if others else [],
        rule=rule,
        following=Following(subspaces=Subspaces(rank, side, algorithm, lapack_signs), **{**usual, **options}),
        lr=lr,
        weight_decay=weight_decay,
        decay_first=decay_first,
    )


def gradient(parameter: Tensor, step: int, place: int) -> Tensor:
    """Of a few directions and noise, as a real one; a function of its arguments."""
    generator = torch.Generator().manual_seed(1000 * place + step)
    noise = torch.randn(parameter.shape, generator=generator)
    return noise + 3 * noise.mean(dim=0, keepdim=True)


def run(stepper: torch.optim.Optimizer, steps: int, *, first: int = 0) -> list[Tensor]:
    """The weights after these steps."""
    moved = [parameter for group in stepper.param_groups for parameter in group["params"]]
    for step in range(first, first + steps):
        for place, parameter in enumerate(moved):
            parameter.grad = gradient(parameter, step, place)
        stepper.step()
    return [parameter.detach().clone() for parameter in moved]
