"""This module stops a sweep early after too many failed runs."""

from dataclasses import dataclass

from peft_vision.core.config import Busy, ConfigError, Pruned


class NotStarted(Exception):
    """The error of a point that was not started because the sweep stopped before."""


@dataclass
class Limit:
    """A limit on the failures of a sweep. `most`: failures that stop the sweep, or None for no limit; `failures`: those
    so far, of runs that this command started; `held`: points that it will not start. ConfigError if `most` is not a
    positive integer."""

    most: int | None
    failures: int = 0
    held: int = 0

    def __post_init__(self) -> None:
        if self.most is not None and (type(self.most) is not int or self.most < 1):
            raise ConfigError(
                f"hydra.sweeper.max_failures: got {self.most!r}, should be a whole number from 1 on, or null"
            )

    def count(self, fault: Exception | None) -> None:
        """Count a fault as a failure, unless the run was pruned or another process is working on it."""
        self.failures += fault is not None and not isinstance(fault, Busy | Pruned)

    def is_reached(self) -> bool:
        return self.most is not None and self.failures >= self.most

    def said(self) -> list[str]:
        """Return a line about what stopped the sweep, or no lines if nothing did."""
        if not self.held:
            return []
        return [
            f"hydra.sweeper.max_failures={self.most} stopped the sweep: {self.held} points were not started; the same "
            "command goes on with them"
        ]
