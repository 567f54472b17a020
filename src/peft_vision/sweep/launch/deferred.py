"""This module holds a sweeper that Hydra can import with every command, even --help, because the imports that a sweep
needs wait until one begins."""

from importlib.util import find_spec
from typing import Any

from hydra.plugins.sweeper import Sweeper

from peft_vision.core.config import ConfigError, locate


class Deferred(Sweeper):
    """A sweeper that hands all calls to another one. `target`: the dotted path of that sweeper's class."""

    target: str

    def __init__(self, **options: Any) -> None:
        self._sweeper = locate(self.target, "hydra.sweeper")(**options)

    def setup(self, **context: Any) -> None:
        self._sweeper.setup(**context)

    def sweep(self, arguments: list[str]) -> Any:
        return self._sweeper.sweep(arguments)


def check_optuna() -> None:
    """Raise ConfigError if Optuna is not installed, without importing it."""
    if find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper: a search needs Optuna; pip install 'peft-vision[search]'")
