"""hydra/sweeper=optuna, where Hydra looks for it."""

from importlib.util import find_spec
from typing import Any

from peft_vision.config import ConfigError
from peft_vision.launch.deferred import Deferred


class Optuna(Deferred):
    target = "peft_vision.search.sweeper.SweepOfTrials"

    def __init__(self, **options: Any) -> None:
        if find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper=optuna: needs Optuna; pip install 'peft-vision[search]'")
        super().__init__(**options)
