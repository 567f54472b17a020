"""Defines a task: the action that a command carries out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from peft_vision.config import component


@component
class Task(ABC):
    """`shares_work`: whether several processes under torchrun can do it together, as `distributed.world` has them."""

    shares_work: ClassVar[bool] = False

    @abstractmethod
    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float | None:
        """Run the task. `config` is resolved and plain; `choices` the option chosen in each group, for names. Returns
        the figure that a search maximises, if there is one."""
