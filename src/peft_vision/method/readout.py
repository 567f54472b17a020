"""This module computes the head's input from the observations of a frozen or a tuned encoder."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from peft_vision.backbone.observation import Kind, Observation


class Readout(nn.Module, ABC):
    """A module that computes the head's features from observations. `reads`: the kinds of observation that `forward`
    needs; `first_layer`: the first layer whose inner values these show (infinite: none); `width`: width of the
    features."""

    reads: ClassVar[frozenset[Kind]]
    first_layer: float
    width: int

    @abstractmethod
    def forward(self, seen: Observation) -> Tensor:
        """Return features (B, width) for the head."""


class Pooled(Readout):
    """A readout that returns the backbone's own pooled features."""

    reads = frozenset({"features"})
    first_layer = math.inf

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, seen: Observation) -> Tensor:
        """Return the features (B, D) as the backbone pools them."""
        return seen.features


class Intermediates(Readout):
    """A readout that returns columns of the backbone's intermediate values, see `backbone/intermediates.py`."""

    reads = frozenset({"intermediates"})
    first_layer = 0

    def __init__(self, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns, persistent=False)
        self.width = len(columns)

    def forward(self, seen: Observation) -> Tensor:
        """Return the chosen columns (B, W), group after group."""
        whole = len(self.columns) == seen.intermediates.shape[1]
        return seen.intermediates if whole else seen.intermediates[:, self.columns]
