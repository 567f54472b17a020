"""This module selects features by a head under a group lasso (Evci et al., 2022, arXiv:2201.03529).

    select     loss + lasso * sum_j ||W[:, j]||_2        a fresh head on all features
    retrain    loss                                      a fresh head on the share with the largest ||W[:, j]||_2

Both phases train nothing but the head. Head2Toe and the second stage of VQT consist of these two phases.
"""

from collections.abc import Callable

from torch import Tensor, nn

from peft_vision.core.config import ConfigError
from peft_vision.method.base import Phase


class Columns(nn.Module):
    """A module that selects the columns `index` (K,) of the features, ascending (None: all). With `groups` (W,), the
    group of each feature, what is left of each group is scaled to length one; a group of zeros stays zero."""

    def __init__(self, index: Tensor | None, groups: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.register_buffer("groups", groups, persistent=False)
        self.num_groups = None if groups is None else int(groups.max()) + 1

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, W) to (B, K)."""
        if self.index is not None:
            features = features[:, self.index]
        if self.groups is None:
            return features
        groups = self.groups if self.index is None else self.groups[self.index]
        squares = features.new_zeros(features.shape[0], self.num_groups).index_add_(1, groups, features.square())
        return features / squares.sqrt().clamp(min=1e-12)[:, groups]


def selection_phases(
    *,
    keep_fraction: float,
    lasso: float,
    selecting_lr: float = 1.0,
    retraining_lr: float = 1.0,
    live_readout: bool = False,
    groups: Tensor | None = None,
) -> tuple[Phase, Phase]:
    """Return the two phases, select and retrain. `selecting_lr`, `retraining_lr`: factors of the learning rate in them.
    `live_readout`: whether the readout's dropout is active in both. `groups` (W,): the group of each feature; the
    features read of each group are then scaled to length one."""

    def all_features(old: nn.Module, build: Callable[[int], nn.Module]) -> nn.Module:
        """Return a fresh head on all features."""
        return nn.Sequential(Columns(None, groups), build(head_columns(old).shape[1]))

    def chosen_features(old: nn.Module, build: Callable[[int], nn.Module]) -> nn.Module:
        """Return a fresh head on the columns with the largest weights in the old one."""
        norms = head_columns(old).detach().norm(dim=0)
        index = norms.topk(max(1, int(keep_fraction * len(norms)))).indices.sort().values
        return nn.Sequential(Columns(index, groups), build(len(index)))

    return (
        Phase("select", True, all_features, lr_factor=selecting_lr, lasso=lasso, live_readout=live_readout),
        Phase("retrain", True, chosen_features, lr_factor=retraining_lr, live_readout=live_readout),
    )


def head_columns(head: nn.Module) -> Tensor:
    """Return the weights (outputs, W) of a head's first linear layer; column j multiplies feature j. Raise ConfigError
    where the head has no linear layer."""
    linear = next((module for module in head.modules() if isinstance(module, nn.Linear)), None)
    if linear is None:
        raise ConfigError(
            f"head: features are chosen by the columns of a linear layer, and {type(head).__name__} has none"
        )
    return linear.weight
