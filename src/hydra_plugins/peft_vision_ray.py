"""This module puts hydra/launcher=ray_cluster where Hydra looks for plugins."""

from peft_vision.sweep.launch.cluster_of_ray import RayLauncher


class Ray(RayLauncher):
    pass
