"""This module puts hydra/sweeper=tune where Hydra looks for plugins."""

from peft_vision.sweep.launch.deferred import Deferred


class Tune(Deferred):
    target = "peft_vision.sweep.tuning.sweeper.Tuning"
