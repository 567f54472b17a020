"""What the head reads: features computed from what was observed of a frozen or a tuned encoder."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from peft_vision.backbone.observation import Kind, Observation


class Readout(nn.Module, ABC):
    """`reads`: the kinds of observation that `forward` needs; `width`: of the features that it gives."""

    reads: ClassVar[frozenset[Kind]]
    width: int

    @abstractmethod
    def forward(self, seen: Observation) -> Tensor:
        """Features (B, width) for the head."""


class Pooled(Readout):
    """The backbone's own pooled features."""

    reads = frozenset({"features"})

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, seen: Observation) -> Tensor:
        """(B, D), as the backbone pools."""
        return seen.features


class Intermediates(Readout):
    """Everything the backbone computes on its way, see `backbone/intermediates.py`."""

    reads = frozenset({"intermediates"})

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, seen: Observation) -> Tensor:
        """(B, W), group behind group."""
        return seen.intermediates
