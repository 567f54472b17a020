"""hydra/launcher=slurm, where Hydra looks for it."""

from peft_vision.launch.slurm import JobsOfSlurm


class Slurm(JobsOfSlurm):
    pass
