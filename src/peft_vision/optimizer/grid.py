"""This module fits every pair of learning rate and weight decay at once. Validation chooses one of them.

The heads of all settings are stacked, so a step on stored features is one product of the batch's features with all of
them; each head then steps by its own rate and decay, as it would alone (batches, initial weights and schedule are the
same for all). Where a method trains more than the head, `training/together.py` trains a model for each setting in the
same way.
"""

from itertools import product
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.core.config import HashDefault, OnlyWith, component
from peft_vision.core.progress import Progress
from peft_vision.data.images import shuffled
from peft_vision.models.observations import FeatureTable
from peft_vision.optimizer.base import SGD, AdamW, Beta, Fitting, Solution, Solver, Stepper, merit_of_tried, validated

_EPS = 1e-8  # that of optimizer=adamw, and of torch


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("should name each seed once")
    return seeds


_Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(_distinct)]


@component
class Grid(Solver):
    """A solver that trains a head for each setting. `algorithm`: the update rule, with `betas` (adamw) or `momentum`
    (sgd). `seeds`: where a method trains, each setting does with each of these, the run's own among them; None: with
    that alone."""

    heeds: ClassVar[str] = "trainer.precision, epochs, batch_size and label_smoothing, and schedule"
    fits_methods: ClassVar[bool] = True

    algorithm: Literal["adamw", "sgd"]
    lr: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    weight_decay: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]
    betas: Annotated[tuple[Beta, Beta], OnlyWith("algorithm", "adamw")]
    momentum: Annotated[float, Field(ge=0, lt=1), OnlyWith("algorithm", "sgd")]
    seeds: Annotated[_Seeds | None, HashDefault(None)]

    @property
    def num_settings(self) -> int:
        return len(self.lr) * len(self.weight_decay)

    @property
    def num_models(self) -> int:
        """Return the number of models that train at once."""
        return self.num_settings * len(self.seeds or (0,))

    def settings(self) -> list[tuple[float, float]]:
        """Return the pairs of learning rate and weight decay, in order of rate, then of decay."""
        return list(product(sorted(self.lr), sorted(self.weight_decay)))

    def steppers(self) -> list[Stepper]:
        """Return for each setting the optimizer by which a run of this setting alone would step."""
        if self.algorithm == "sgd":
            return [SGD(lr=lr, weight_decay=decay, momentum=self.momentum) for lr, decay in self.settings()]
        options = {"betas": self.betas, "eps": _EPS, "decays": "matrices"}
        return [AdamW(lr=lr, weight_decay=decay, **options) for lr, decay in self.settings()]

    def solve(self, head: nn.Linear, train: FeatureTable, val: FeatureTable | None, fitting: Fitting) -> Solution:
        """Return the best of the heads after the last epoch; where accuracy and loss are equal the first in order of
        rate, then of decay, and without validation the first."""
        settings = self.settings()
        heads = Heads(head, len(settings))
        stepper = self._stepper(heads, settings)
        steps = -(-len(train.labels) // fitting.batch_size)
        total = fitting.epochs * steps
        losses = torch.zeros(len(settings), device=heads.weight.device)
        with Progress(label=f"training {len(settings)} heads", total=total, unit="steps") as progress:
            for epoch in range(fitting.epochs):
                batches = shuffled(len(train.labels), batch_size=fitting.batch_size, seed=fitting.seed, epoch=epoch)
                losses.zero_()
                for index, batch in enumerate(batches):
                    factor = fitting.schedule.factor(epoch * steps + index, total)
                    for group in stepper.param_groups:
                        group["lr"] = group["base_lr"] * factor
                    loss = heads.losses(train.features[batch], train.labels[batch], fitting.label_smoothing)
                    heads.backward(loss)
                    stepper.step()
                    losses += loss.detach() / steps
                    progress.advance(1)
        return _chosen(heads, settings, losses, val)

    def _stepper(self, heads: "Heads", settings: list[tuple[float, float]]) -> torch.optim.Optimizer:
        groups = []
        for (lr, decay), (weight, bias) in zip(settings, heads.members(), strict=True):
            groups.append({"params": [weight], "weight_decay": decay, "base_lr": lr})
            groups.append({"params": [bias], "weight_decay": 0.0, "base_lr": lr})
        if self.algorithm == "sgd":
            return torch.optim.SGD(groups, lr=1.0, momentum=self.momentum, fused=True)
        return torch.optim.AdamW(groups, lr=1.0, betas=self.betas, fused=True)


class Heads:
    """S copies of a linear head, (S * C, W) and (S * C,), that share each product and step separately."""

    def __init__(self, head: nn.Linear, count: int) -> None:
        self.weight = head.weight.detach().repeat(count, 1).requires_grad_()
        self.bias = head.bias.detach().repeat(count).requires_grad_()
        self.weight.grad = torch.zeros_like(self.weight)
        self.bias.grad = torch.zeros_like(self.bias)
        self.count = count

    def members(self) -> list[tuple[Tensor, Tensor]]:
        """Return the weight and bias of each copy: views, whose gradients are views as well, for an optimizer to
        step."""
        members = []
        for whole in (self.weight, self.bias):
            parts = whole.detach().chunk(self.count)
            for part, gradient in zip(parts, whole.grad.chunk(self.count), strict=True):
                part.grad = gradient
            members.append(parts)
        return list(zip(*members, strict=True))

    def logits(self, features: Tensor) -> Tensor:
        """Map (B, W) to (S, B, C)."""
        logits = F.linear(features, self.weight, self.bias)
        return logits.unflatten(1, (self.count, -1)).transpose(0, 1)

    def losses(self, features: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean cross-entropy of each copy, (S,)."""
        logits = self.logits(features)
        repeated = labels.expand(self.count, -1)
        loss = F.cross_entropy(
            logits.flatten(0, 1), repeated.flatten(), label_smoothing=label_smoothing, reduction="none"
        )
        return loss.view(self.count, -1).mean(dim=1)

    def backward(self, losses: Tensor) -> None:
        """Compute the gradients in the buffers that `members` return; each loss affects only its own head."""
        self.weight.grad.zero_()
        self.bias.grad.zero_()
        losses.sum().backward()


def _chosen(heads: Heads, settings: list[tuple[float, float]], losses: Tensor, val: FeatureTable | None) -> Solution:
    rows = [
        {"lr": lr, "weight_decay": decay, "train/loss": loss}
        for (lr, decay), loss in zip(settings, losses.tolist(), strict=True)
    ]
    if val is not None:
        with torch.no_grad():
            for row, logits in zip(rows, heads.logits(val.features), strict=True):
                row |= validated(logits, val.labels)
    best = max(range(len(rows)), key=lambda index: merit_of_tried(rows[index]))  # the first of equal ones
    weight, bias = heads.members()[best]
    lr, decay = settings[best]
    return Solution(weight.clone(), bias.clone(), {"lr": lr, "weight_decay": decay}, rows)
