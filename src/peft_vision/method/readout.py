"""Computes what the head reads: features from the observations of a frozen or a tuned encoder."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from peft_vision.backbone.observation import Kind, Observation


class Readout(nn.Module, ABC):
    """`reads`: the kinds of observation that `forward` needs; `first_layer`: the first layer that these show (infinite:
    none); `width`: of the features that it gives."""

    reads: ClassVar[frozenset[Kind]]
    first_layer: float
    width: int

    @abstractmethod
    def forward(self, seen: Observation) -> Tensor:
        """Features (B, width) for the head."""


class Pooled(Readout):
    """The backbone's own pooled features."""

    reads = frozenset({"features"})
    first_layer = math.inf

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, seen: Observation) -> Tensor:
        """(B, D), as the backbone pools."""
        return seen.features


class Intermediates(Readout):
    """Columns of everything the backbone computes on its way, see `backbone/intermediates.py`."""

    reads = frozenset({"intermediates"})
    first_layer = 0

    def __init__(self, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns, persistent=False)
        self.width = len(columns)

    def forward(self, seen: Observation) -> Tensor:
        """(B, W), group behind group."""
        whole = len(self.columns) == seen.intermediates.shape[1]
        return seen.intermediates if whole else seen.intermediates[:, self.columns]
