"""How many failed runs end a sweep before its end."""

from dataclasses import dataclass

from peft_vision.config import Busy, ConfigError, Pruned


class NotStarted(Exception):
    """The sweep ended before the turn of this point came."""


@dataclass
class Limit:
    """`most`: failures that end the sweep; None: it goes on whatever fails. `failures`: so far, of runs that this
    command started; `held`: points that it will not start."""

    most: int | None
    failures: int = 0
    held: int = 0

    def __post_init__(self) -> None:
        if self.most is not None and (type(self.most) is not int or self.most < 1):
            raise ConfigError(
                f"hydra.sweeper.max_failures: got {self.most!r}, should be a whole number from 1 on, or null"
            )

    def count(self, fault: Exception | None) -> None:
        """A run that was given up, or that another process is at work on, has not failed."""
        self.failures += fault is not None and not isinstance(fault, Busy | Pruned)

    def is_reached(self) -> bool:
        return self.most is not None and self.failures >= self.most

    def said(self) -> list[str]:
        """Return what stopped the sweep, as a line; none where nothing did."""
        if not self.held:
            return []
        return [
            f"hydra.sweeper.max_failures={self.most} stopped the sweep: {self.held} points were not started; the same "
            "command goes on with them"
        ]
