"""This module puts hydra/launcher=slurm where Hydra looks for plugins."""

from peft_vision.sweep.launch.slurm import SlurmLauncher


class Slurm(SlurmLauncher):
    pass
