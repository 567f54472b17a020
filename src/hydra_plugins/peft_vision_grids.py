"""This module puts hydra/sweeper=grids where Hydra looks for plugins."""

from peft_vision.sweep.launch.deferred import Deferred


class Grids(Deferred):
    target = "peft_vision.sweep.grids.SweepOfGrids"
