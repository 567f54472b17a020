"""This module puts hydra/sweeper=optuna where Hydra looks for plugins."""

from typing import Any

from peft_vision.launch.deferred import Deferred
from peft_vision.search.needed import check_optuna


class Optuna(Deferred):
    target = "peft_vision.search.sweeper.SweepOfTrials"

    def __init__(self, **options: Any) -> None:
        check_optuna()
        super().__init__(**options)
