"""This module puts hydra/launcher=ray_cluster where Hydra looks for plugins."""

from peft_vision.launch.cluster_of_ray import RayLauncher


class Ray(RayLauncher):
    pass
