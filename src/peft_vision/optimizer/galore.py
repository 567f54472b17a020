"""GaLore: full fine-tuning with low-rank gradients (Zhao et al., 2024, arXiv:2403.03507)."""

import logging
import re
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from torch import nn

from peft_vision.core import bitsandbytes
from peft_vision.core.config import ConfigError, OnlyWith, component
from peft_vision.method.base import Pace
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Beta, Stepper, parameter_groups
from peft_vision.optimizer.low_rank import Following, LowRankProjection
from peft_vision.optimizer.projection import (
    Algorithm,
    Side,
    Subspaces,
    Update,
    check_matrices,
    is_matrix,
    short,
    summary,
)
from peft_vision.optimizer.rule import AdamRule, Momentum, Rule

logger = logging.getLogger("peft_vision")


@component
class GaLore(Stepper):
    """A stepper that projects the gradients of matrices to subspaces.

    `algorithm`: the update rule, with `betas` and `eps` (adamw) or `momentum` (sgd). `matrices`: a regular expression
    that matches the names of the matrices to project; all other parameters are stepped in full. `rank`, `side` and
    `basis` define the subspaces. `gap`, `adaptive_gap`, `staggered`, `moments`, `scale`, `update`: see `Following`.
    `bits`: bits per entry of a moment. `per_layer`: whether each parameter steps during the backward pass.
    `conventions`: those of torch, or of galore-torch: eps before the bias correction, decay after the update, singular
    vectors with LAPACK's signs.
    """

    algorithm: Literal["adamw", "sgd"]
    betas: Annotated[tuple[Beta, Beta], OnlyWith("algorithm", "adamw")]
    eps: Annotated[PositiveFloat, OnlyWith("algorithm", "adamw")]
    momentum: Annotated[float, Field(ge=0, lt=1), OnlyWith("algorithm", "sgd")]
    matrices: str
    rank: PositiveInt
    side: Side
    basis: Algorithm
    gap: PositiveInt
    adaptive_gap: Annotated[float, Field(gt=0, le=1)] | None
    staggered: bool
    moments: Literal["keep", "rotate"]
    scale: PositiveFloat
    update: Update
    bits: Literal[8, 32]
    per_layer: bool
    conventions: Literal["torch", "galore_torch"]

    @field_validator("matrices")
    @classmethod
    def _is_regular_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return value

    @field_validator("bits")
    @classmethod
    def _is_installed(cls, value: int) -> int:
        if value == 8 and not bitsandbytes.is_installed():
            raise ValueError(f"bitsandbytes is not installed; {bitsandbytes.INSTALL}")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> "GaLore":
        if self.basis == "random" and (self.moments, self.adaptive_gap) != ("keep", None):
            raise ValueError("basis=random has no coordinates to follow; it takes moments=keep adaptive_gap=null")
        if self.basis == "random" and self.update != "apollo":
            raise ValueError(
                f"basis=random are no orthonormal vectors, and update={self.update} steps along those of a subspace; "
                "take another basis, or update=apollo, which only reads lengths there"
            )
        if self.update != "low_rank" and self.side == "full":
            raise ValueError(f"update={self.update} scales the channels of the other side, and side=full has none")
        if self.conventions == "galore_torch" and self.basis != "svd":
            raise ValueError(f"conventions=galore_torch takes basis=svd, not {self.basis}")
        return self

    @property
    def steps_during_backward(self) -> bool:
        return self.per_layer

    def check(self, model: Model) -> None:
        """Raise ConfigError where no phase of `model` has a matrix that can be projected like this, or where one is to
        train at a pace of its own."""
        trained = model.trained()
        check_matrices(trained, self.matrices, self.rank)
        for name, parameter in trained.items():
            if is_matrix(name, parameter, self.matrices) and model.pace(name) != Pace():
                raise ConfigError(
                    f"optimizer: projected matrices all train at one rate and decay, and {short(name)} is to have its "
                    "own; leave it out of method.lr_factors and weight_decays, or of optimizer.matrices"
                )

    def create(self, model: Model, *, seed: int) -> LowRankProjection:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        projected = [(name, parameter) for name, parameter in named if is_matrix(name, parameter, self.matrices)]
        sizes = [sum(p.numel() for _, p in those) for those in (projected, named)]
        logger.info(
            "%-9s %s: %s parameters at rank %d; the other %s parameters whole, as %s",
            *("galore", summary(projected), f"{sizes[0]:,}", self.rank),
            *(f"{sizes[1] - sizes[0]:,}", self.algorithm),
        )
        return LowRankProjection(
            [parameter for _, parameter in projected],
            _without(parameter_groups(model, self.weight_decay), [parameter for _, parameter in projected]),
            rule=self._rule(),
            following=Following(
                subspaces=Subspaces(self.rank, self.side, self.basis, lapack_signs=self.conventions == "galore_torch"),
                gap=self.gap,
                adaptive_gap=self.adaptive_gap,
                staggered=self.staggered,
                moments=self.moments,
                scale=self.scale,
                update=self.update,
                bits=self.bits,
                seed=seed,
            ),
            lr=self.lr,
            weight_decay=self.weight_decay,
            decay_first=self.conventions == "torch",
        )

    def _rule(self) -> Rule:
        if self.algorithm == "sgd":
            return Momentum(self.momentum)
        return AdamRule(self.betas, self.eps, eps_first=self.conventions == "galore_torch")


def _without(groups: list[dict[str, object]], parameters: list[nn.Parameter]) -> list[dict[str, object]]:
    """Return the groups without `parameters`; a group that becomes empty is left out."""
    taken = {id(parameter) for parameter in parameters}
    left = [{**group, "params": [p for p in group["params"] if id(p) not in taken]} for group in groups]
    return [group for group in left if group["params"]]
