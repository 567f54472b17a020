"""Defines a pruner, which may end a run between two epochs because other runs are ahead of it by then."""

from abc import ABC, abstractmethod

from peft_vision.config import component


@component
class Pruner(ABC):
    @abstractmethod
    def verdict(self, epoch: int, accuracy: float) -> str | None:
        """Why to give up after this epoch of the last phase, from 1 on, with this validation accuracy; None: go on."""
