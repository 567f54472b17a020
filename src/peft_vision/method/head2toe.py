"""Head2Toe: a linear head on selected intermediate features (Evci et al., 2022, arXiv:2201.03529).

The features are averages over the tokens of what every layer computes, see `backbone/intermediates.py`. A group lasso
selects the share `keep_fraction` of them, what is left of each group is scaled to length one, and a linear head is
trained on that.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.intermediates import group_widths, tap_groups
from peft_vision.backbone.observation import Kind
from peft_vision.backbone.stage import Need
from peft_vision.core.config import component
from peft_vision.method.base import Intermediates, Method, Phase
from peft_vision.method.selection import selection_phases


@component
class Head2Toe(Method):
    """A method that trains a head on selected intermediate features. `keep_fraction`: share of the features that the
    last phase keeps. `lasso`: weight of the penalty that selects."""

    keep_fraction: Annotated[float, Field(gt=0, le=1)]
    lasso: NonNegativeFloat

    def needs(self) -> frozenset[Need]:
        return frozenset({"taps"})

    def attach(self, encoder: Encoder) -> None:
        """Leave the backbone unchanged."""

    def reads(self) -> frozenset[Kind]:
        return Intermediates.reads

    def readout(self, encoder: Encoder) -> Intermediates:
        """Return the readout of the intermediates of the chosen layers: 66,816 features for ViT-B/16."""
        _, groups = self._groups(encoder)
        kept = torch.isin(groups, torch.tensor(self._read(encoder)))
        return Intermediates(kept.nonzero().squeeze(1))

    def phases(self, encoder: Encoder) -> tuple[Phase, ...]:
        """Return two phases: one with a head that selects features, and one with a head that reads the selected
        ones."""
        count, groups = self._groups(encoder)
        place = torch.zeros(count, dtype=torch.int64)
        read = self._read(encoder)
        place[read] = torch.arange(len(read))
        groups = place[groups[self.readout(encoder).columns]]
        return selection_phases(keep_fraction=self.keep_fraction, lasso=self.lasso, groups=groups)

    def _groups(self, encoder: Encoder) -> tuple[int, torch.Tensor]:
        """Return the number of groups, and the group of each column."""
        widths = torch.tensor(group_widths(encoder.trunk))
        return len(widths), torch.arange(len(widths)).repeat_interleave(widths)

    def _read(self, encoder: Encoder) -> list[int]:
        """Return the groups of the chosen layers. The tokens that enter the first layer are included with that layer,
        the norm's output and the pooled features with every choice."""
        chosen = {None, *self.chosen(encoder)}
        return [number for number, group in enumerate(tap_groups(encoder.trunk)) if group.stage in chosen]
