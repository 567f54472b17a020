"""What may give a run up between two epochs, because others have come further by then."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from peft_vision.config import component


@component
class Pruner(ABC):
    @abstractmethod
    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Why to give up after an epoch of the last phase with these `metrics`; None: go on."""
