"""This module normalises a head's input by the whole batch of an update (Ioffe & Szegedy, 2015, arXiv:1502.03167).

training     (x - mean) / sqrt(var + eps)     with statistics of the batch's images, over all processes
evaluation   the same with their running averages
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm1d):
    """A `BatchNorm1d` that has no affine part and works on batches divided among processes, some of which may have no
    image: each process normalises by the statistics of the whole batch. A batch of a single image, such as the last of
    an epoch, has no variance: it is normalised by the running averages and does not update them."""

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalised features, (B, W) like the input."""
        if self.training and _processes() > 1:
            return self._over_processes(features)
        if self.training and len(features) == 1:
            return F.batch_norm(features, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(features)

    def _over_processes(self, features: Tensor) -> Tensor:
        """Normalise by the statistics of all processes; gradients pass through them to the images of every process."""
        count = _summed(features.new_tensor(len(features)))
        mean = _summed(features.sum(dim=0)) / count
        var = _summed((features - mean).square().sum(dim=0)) / count
        several = count > 1
        with torch.no_grad():
            share = self.momentum * several  # 0 for a single image
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), share)
            self.num_batches_tracked += several
        mean, var = torch.where(several, mean, self.running_mean), torch.where(several, var, self.running_var)
        return (features - mean) / (var + self.eps).sqrt()


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _summed(part: Tensor) -> Tensor:
    """Return the sum of `part` over all processes, which gradients pass through."""
    return differentiable.all_reduce(part)
