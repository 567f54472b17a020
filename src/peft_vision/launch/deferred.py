"""A sweeper that Hydra can import with every command, --help too, because what it needs is imported when one begins."""

from typing import Any

from hydra.plugins.sweeper import Sweeper

from peft_vision.config import locate


class Deferred(Sweeper):
    """`target`: the dotted path of the class that sweeps."""

    target: str

    def __init__(self, **options: Any) -> None:
        self._sweeper = locate(self.target, "hydra.sweeper")(**options)

    def setup(self, **context: Any) -> None:
        self._sweeper.setup(**context)

    def sweep(self, arguments: list[str]) -> Any:
        return self._sweeper.sweep(arguments)
