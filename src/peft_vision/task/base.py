"""This module defines the task: the action that a command carries out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from peft_vision.core.config import component


@component
class Task(ABC):
    """The action that a command carries out. `shares_work`: whether several processes under torchrun can share it, as
    `distributed.world` sets them up. `trains`: whether each point of a sweep is a run, with an experiment and a folder;
    `plans`: whether a sweep only tells what its runs would cost."""

    shares_work: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    plans: ClassVar[bool] = False

    def placed(self, *, in_sweep: bool) -> Self:
        """Return the task as it works on its own, or as one point of a sweep."""
        return self

    def check_sweep(self, published: Sequence[str]) -> None:  # noqa: B027 - most tasks need nothing of a sweep
        """Raise ConfigError if no sweep can carry this task out whose report names these published tables."""

    @property
    def retries(self) -> bool:
        """True if a point of a sweep that failed before is to be tried again."""
        return False

    @abstractmethod
    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float | None:
        """Run the task and return the figure that a search maximises, if there is one.

        `config` is resolved and plain; `choices` holds the option chosen in each group, for names."""
