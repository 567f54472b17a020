"""What may give a run up between two epochs, because others have come further by then."""

from abc import ABC, abstractmethod

from peft_vision.config import component


@component
class Pruner(ABC):
    @abstractmethod
    def verdict(self, epoch: int, accuracy: float) -> str | None:
        """Why to give up after this epoch of the last phase, from 1 on, with this validation accuracy; None: go on."""
