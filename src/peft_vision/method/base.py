"""Defines a method: it adds what it tunes to a frozen encoder and lets it train, in one phase or in several."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PositiveFloat
from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.observation import Kind
from peft_vision.config import INCIDENTAL, component
from peft_vision.method.depth import Layers, chosen
from peft_vision.method.readout import Pooled, Readout


@dataclass(frozen=True)
class Phase:
    """One training of `trainer.epochs` epochs.

    `probe`: the head alone trains, everything else stays as the phases before left it. `head`: the head to begin with,
    made from the old one by a function that makes a fresh head for a width (None: the old one goes on).
    `lr_factor`: of `optimizer.lr`. `lasso`: weight of the sum of the L2 norms of the head's input columns in the loss.
    `live_readout`: the readout stays in training mode though nothing of it trains, so that its dropout acts.
    `group`: the config group of the optimizer that fits it.
    """

    name: str
    probe: bool = False
    head: Callable[[nn.Module, Callable[[int], nn.Module]], nn.Module] | None = None
    lr_factor: float = 1.0
    lasso: float = 0.0
    live_readout: bool = False
    group: Literal["optimizer", "probe"] = "optimizer"


PROBE = Phase("probe", probe=True, group="probe")


@component
class Method(ABC):
    """`layers`: those that the method works in: all, first-N, last-N, or a list of indices. `probe_first`: whether the
    head is fitted before anything else trains, by the optimizer `probe`. `lr`: the learning rate that suits this method
    with an optimizer, by the name that the optimizer's YAML refers to; `optimizer.lr` starts from it."""

    layers: Layers
    probe_first: bool
    lr: Annotated[dict[str, PositiveFloat], INCIDENTAL]

    def check(self, where: str = "method") -> None:
        """ConfigError for values that could not act; called before a training, and not where one that ended is read."""
        return None

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Return whether version 0.1.0 trained something else with the same values, so that its runs do not count as
        runs of this method. `drops`: whether the backbone is configured to drop, which in 0.1.0 only a backbone trained
        as a whole did."""
        return drops

    def chosen(self, encoder: Encoder) -> tuple[int, ...]:
        """The indices of `layers` in this encoder. ConfigError where it has no such layer."""
        return chosen(self.layers, encoder)

    @abstractmethod
    def attach(self, encoder: Encoder) -> None:
        """Adds parameters to `encoder`, or sets `requires_grad` on its own; all of it is frozen before. What trains
        afterwards is what `requires_grad` says, and exactly that is saved."""

    def reads(self) -> frozenset[Kind]:
        """Return the kinds of observation that the readout will need from the encoder."""
        return Pooled.reads

    def readout(self, encoder: Encoder) -> Readout:
        """Return the readout that computes what the head reads; its parameters that train are tuned as well."""
        return Pooled(encoder.width)

    def phases(self, encoder: Encoder) -> tuple[Phase, ...]:
        """Return the training phases, in their order."""
        return (Phase("train"),)
