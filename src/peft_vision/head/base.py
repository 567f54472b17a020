"""This module defines the head, which maps features to logits."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import nn

from peft_vision.core.config import component
from peft_vision.head.batch_norm import BatchNorm


@component
class Head:
    """A linear classifier, with optional normalisation of its input and hidden layers before it.

    `norm`: none, batch (over the whole batch of an update; no affine part, as in MAE's linear probe) or layer.
    `hidden`: widths of hidden layers, each with GELU and dropout. `std`: standard deviation of the last layer's initial
    weights, or fan_out: the square root of 2 / C, as in the code of VPT and VQT; its bias starts at zero.
    """

    norm: Literal["none", "batch", "layer"]
    hidden: tuple[PositiveInt, ...]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    std: NonNegativeFloat | Literal["fan_out"]

    @property
    def is_linear(self) -> bool:
        """True if the head is a single linear layer, without norm, hidden layer or dropout."""
        return self.norm == "none" and not self.hidden and self.dropout == 0

    def build(self, width: int, num_classes: int) -> nn.Sequential:
        """Return a module from features (B, width) to logits (B, num_classes)."""
        parts: list[nn.Module] = []
        if self.norm == "batch":
            parts.append(BatchNorm(width))
        if self.norm == "layer":
            parts.append(nn.LayerNorm(width))
        for hidden in self.hidden:
            parts += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(self.dropout)]
            width = hidden
        if not self.hidden and self.dropout > 0:
            parts.append(nn.Dropout(self.dropout))
        classifier = nn.Linear(width, num_classes)
        if self.std == "fan_out":
            nn.init.kaiming_normal_(classifier.weight, mode="fan_out")
        else:
            nn.init.trunc_normal_(classifier.weight, std=self.std)
        nn.init.zeros_(classifier.bias)
        return nn.Sequential(*parts, classifier)
