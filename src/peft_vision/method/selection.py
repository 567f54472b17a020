"""Choosing features: a head under a group lasso tells which columns it needs (Evci et al., 2022, arXiv:2201.03529).

    select     loss + lasso * sum_j ||W[:, j]||_2        a fresh head on all features
    retrain    loss                                      a fresh head on the share with the largest ||W[:, j]||_2

Both train nothing but the head. Head2Toe and the second stage of VQT are these two phases.
"""

from collections.abc import Callable

from torch import Tensor, nn

from peft_vision.config import ConfigError
from peft_vision.method.base import Phase


class Columns(nn.Module):
    """The columns `index` (K,) of the features, ascending (None: all); where `groups` (W,) tells the group of each
    feature, what is left of a group gets length one, and a group of zeros stays zero."""

    def __init__(self, index: Tensor | None, groups: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.register_buffer("groups", groups, persistent=False)
        self.num_groups = None if groups is None else int(groups.max()) + 1

    def forward(self, features: Tensor) -> Tensor:
        """(B, W) to (B, K)."""
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
    """`selecting_lr`, `retraining_lr`: factors of the learning rate in the two phases. `live_readout`: whether the
    readout's dropout acts in both. `groups` (W,): the group of each feature; what is read of a group then gets length
    one."""

    def all_features(old: nn.Module, build: Callable[[int], nn.Module]) -> nn.Module:
        """A fresh head."""
        return nn.Sequential(Columns(None, groups), build(head_columns(old).shape[1]))

    def chosen_features(old: nn.Module, build: Callable[[int], nn.Module]) -> nn.Module:
        """A fresh head on the columns that the old one gives the largest weights."""
        norms = head_columns(old).detach().norm(dim=0)
        index = norms.topk(max(1, int(keep_fraction * len(norms)))).indices.sort().values
        return nn.Sequential(Columns(index, groups), build(len(index)))

    return (
        Phase("select", True, all_features, lr_factor=selecting_lr, lasso=lasso, live_readout=live_readout),
        Phase("retrain", True, chosen_features, lr_factor=retraining_lr, live_readout=live_readout),
    )


def head_columns(head: nn.Module) -> Tensor:
    """The weights (outputs, W) of a head's first linear layer; column j multiplies feature j. ConfigError where it
    has none."""
    linear = next((module for module in head.modules() if isinstance(module, nn.Linear)), None)
    if linear is None:
        raise ConfigError(
            f"head: features are chosen by the columns of a linear layer, and {type(head).__name__} has none"
        )
    return linear.weight
