"""This module defines the task: the action that a command carries out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from peft_vision.core.config import component


@component
class Task(ABC):
    """The action that a command carries out. `shares_work`: whether several processes under torchrun can share it, as
    `distributed.world` sets them up."""

    shares_work: ClassVar[bool] = False

    @abstractmethod
    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float | None:
        """Run the task and return the figure that a search maximises, if there is one.

        `config` is resolved and plain; `choices` holds the option chosen in each group, for names."""
