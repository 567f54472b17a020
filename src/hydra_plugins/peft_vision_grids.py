"""This module puts hydra/sweeper=grids where Hydra looks for plugins."""

from peft_vision.launch.deferred import Deferred


class Grids(Deferred):
    target = "peft_vision.sweep.grids.SweepOfGrids"
