"""hydra/launcher=ray_cluster, where Hydra looks for it."""

from peft_vision.launch.cluster_of_ray import TasksOfRay


class Ray(TasksOfRay):
    pass
