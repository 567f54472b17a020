"""This module is what Swin and ConvNeXt share: blocks in groups of one width and grid, and something that halves the
grid between two groups.

A layer is a block. What halves the grid is before the first block of the next group, and trains with it.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

from torch import nn

from peft_vision.backbone.families.trunk import Trunk, strangers, unknown_parts
from peft_vision.backbone.stage import Ports, Stage


class GroupedTrunk(Trunk):
    """A trunk of a model whose blocks are in groups. `groups`: name of timm's list of the groups, each of which has
    `blocks` and, unless that is an identity, a `downsample` before them; `block`: timm's class that the family's layer
    computes. `of_model`, `of_block`: names of the modules and parameters that the family computes with."""

    groups: ClassVar[str]
    block: ClassVar[type[nn.Module]]
    of_model: ClassVar[tuple[str, ...]]
    of_block: ClassVar[tuple[str, ...]]

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._stages: tuple[Stage, ...] | None = None

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        reason = (
            strangers("its blocks are", blocks := cls.blocks_of(model), (cls.block,))
            or unknown_parts("it has", [model], cls.of_model)
            or unknown_parts("its groups have", getattr(model, cls.groups), ("downsample", "blocks"))
            or unknown_parts("its blocks have", blocks, cls.of_block)
        )
        return "it does not pool its tokens" if reason is None and model.head.global_pool.is_identity() else reason

    @classmethod
    def blocks_of(cls, model: nn.Module) -> list[nn.Module]:
        """Return the blocks of all groups, or the layers in their place."""
        return [block for group in getattr(model, cls.groups) for block in group.blocks]

    @abstractmethod
    def layer(self, block: nn.Module, smaller: nn.Module | None, group: nn.Module) -> Ports:
        """Return the layer that takes the place of a block of timm's `group`, behind what halves the grid before it."""

    def adopt(self) -> None:
        for group in getattr(self.model, self.groups):
            for index, block in enumerate(group.blocks):
                group.blocks[index] = self.layer(block, _smaller(group) if index == 0 else None, group)
        self._stages = self._described()

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.blocks_of(self.model)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self._stages or self._described()

    @property
    def width(self) -> int:
        return self.model.head.num_features

    @property
    def grid_layers(self) -> tuple[int, ...]:
        """Return the last layer of each of the last four groups."""
        ends = accumulate(len(group.blocks) for group in getattr(self.model, self.groups))
        return tuple(end - 1 for end in ends)[-4:]

    def _described(self) -> tuple[Stage, ...]:
        """Return the description of every block."""
        found = []
        for number, group in enumerate(getattr(self.model, self.groups)):
            smaller = _smaller(group)
            for index in range(len(group.blocks)):
                before = () if index or smaller is None else (smaller,)
                found.append(self._stage(f"{self.groups}.{number}", index, before))
        return tuple(found)

    @abstractmethod
    def _stage(self, group: str, index: int, before: tuple[nn.Module, ...]) -> Stage:
        """Return the description of block `index` of the group at this path, behind the modules `before` it."""


def _smaller(group: nn.Module) -> nn.Module | None:
    """Return what halves the grid before the blocks of a group, or None."""
    return None if isinstance(group.downsample, nn.Identity) else group.downsample
