"""This module puts hydra/launcher=pool where Hydra looks for plugins."""

from peft_vision.sweep.launch.pool import PoolLauncher


class Pool(PoolLauncher):
    pass
