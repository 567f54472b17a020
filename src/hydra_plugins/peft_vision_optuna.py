"""This module puts hydra/sweeper=optuna where Hydra looks for plugins."""

from typing import Any

from peft_vision.sweep.launch.deferred import Deferred
from peft_vision.sweep.search.study import check_optuna


class Optuna(Deferred):
    target = "peft_vision.sweep.search.sweeper.SweepOfTrials"

    def __init__(self, **options: Any) -> None:
        check_optuna()
        super().__init__(**options)
