"""This module puts hydra/launcher=pool where Hydra looks for plugins."""

from peft_vision.launch.pool import PoolOfProcesses


class Pool(PoolOfProcesses):
    pass
