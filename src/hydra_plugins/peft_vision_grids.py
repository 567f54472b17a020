"""hydra/sweeper=grids, where Hydra looks for it."""

from peft_vision.sweep.grids import SweepOfGrids


class Grids(SweepOfGrids):
    pass
