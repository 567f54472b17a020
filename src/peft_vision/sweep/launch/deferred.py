"""This module holds a sweeper that Hydra can import with every command, even --help, because the imports that a sweep
needs wait until one begins."""

from typing import Any

from hydra.plugins.sweeper import Sweeper

from peft_vision.core.config import locate


class Deferred(Sweeper):
    """A sweeper that hands all calls to another one. `target`: the dotted path of that sweeper's class."""

    target: str

    def __init__(self, **options: Any) -> None:
        self._sweeper = locate(self.target, "hydra.sweeper")(**options)

    def setup(self, **context: Any) -> None:
        self._sweeper.setup(**context)

    def sweep(self, arguments: list[str]) -> Any:
        return self._sweeper.sweep(arguments)
