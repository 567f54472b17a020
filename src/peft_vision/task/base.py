"""What a command does."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from peft_vision.config import component


@component
class Task(ABC):
    @abstractmethod
    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float | None:
        """Does it. `config` is resolved and plain; `choices` the option chosen in each group, for names. Returns the
        figure that a search maximises, if there is one."""
