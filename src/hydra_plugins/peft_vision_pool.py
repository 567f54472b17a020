"""This module puts hydra/launcher=pool where Hydra looks for plugins."""

from peft_vision.launch.pool import PoolLauncher


class Pool(PoolLauncher):
    pass
