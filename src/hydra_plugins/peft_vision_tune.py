"""This module puts hydra/sweeper=tune where Hydra looks for plugins."""

from peft_vision.launch.deferred import Deferred


class Tune(Deferred):
    target = "peft_vision.tuning.sweeper.Tuning"
