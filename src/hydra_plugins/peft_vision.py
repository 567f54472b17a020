"""This module puts the launchers and sweepers where Hydra looks for plugins: it creates only classes of this package.

Hydra imports it with every command, even --help, so sweepers are imported only when a sweep begins.
"""

from typing import Any

from peft_vision.sweep.launch.cluster_of_ray import RayLauncher
from peft_vision.sweep.launch.deferred import Deferred, check_optuna
from peft_vision.sweep.launch.pool import PoolLauncher
from peft_vision.sweep.launch.slurm import SlurmLauncher


class Pool(PoolLauncher):
    """hydra/launcher=pool"""


class Ray(RayLauncher):
    """hydra/launcher=ray_cluster"""


class Slurm(SlurmLauncher):
    """hydra/launcher=slurm"""


class Grids(Deferred):
    """hydra/sweeper=grids"""

    target = "peft_vision.sweep.grids.SweepOfGrids"


class Tune(Deferred):
    """hydra/sweeper=tune"""

    target = "peft_vision.sweep.tuning.sweeper.Tuning"


class Optuna(Deferred):
    """hydra/sweeper=optuna"""

    target = "peft_vision.sweep.search.search.SweepOfTrials"

    def __init__(self, **options: Any) -> None:
        check_optuna()
        super().__init__(**options)
