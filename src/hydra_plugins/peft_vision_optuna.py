"""hydra/sweeper=optuna, where Hydra looks for it: it imports this with every command, so this imports little."""

from importlib.util import find_spec
from typing import Any

from hydra.plugins.sweeper import Sweeper

from peft_vision.config import ConfigError


class Optuna(Sweeper):
    def __init__(self, **options: Any) -> None:
        if find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper=optuna: needs Optuna; pip install 'peft-vision[search]'")
        from peft_vision.search.sweeper import SweepOfTrials

        self._sweeper = SweepOfTrials(**options)

    def setup(self, **context: Any) -> None:
        self._sweeper.setup(**context)

    def sweep(self, arguments: list[str]) -> Any:
        return self._sweeper.sweep(arguments)
