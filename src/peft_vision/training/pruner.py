"""This module defines a pruner, which may end a run between two epochs because other runs are ahead of it by then."""

from abc import ABC, abstractmethod

from peft_vision.core.config import component


@component
class Pruner(ABC):
    @abstractmethod
    def verdict(self, epoch: int, accuracy: float) -> str | None:
        """Return why to give up after this epoch (from 1) of the last phase, at this validation accuracy, or None."""
