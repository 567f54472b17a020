"""hydra/sweeper=tune, where Hydra looks for it."""

from peft_vision.tuning.sweeper import Tuning


class Tune(Tuning):
    pass
