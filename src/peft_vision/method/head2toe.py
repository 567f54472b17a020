"""Head2Toe: a linear head on selected intermediate features (Evci et al., 2022, arXiv:2201.03529).

features = averages over the tokens of what every layer computes, see `backbone/intermediates.py`
choose the share `keep_fraction` by a group lasso, give what is left of each group length one, train a linear head
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.intermediates import group_widths
from peft_vision.backbone.observation import Kind
from peft_vision.config import component
from peft_vision.method.base import Method, Phase
from peft_vision.method.readout import Intermediates
from peft_vision.method.selection import selection_phases


@component
class Head2Toe(Method):
    """`keep_fraction`: share of the features that the last phase keeps. `lasso`: weight of the penalty that selects."""

    keep_fraction: Annotated[float, Field(gt=0, le=1)]
    lasso: NonNegativeFloat

    def attach(self, encoder: Encoder) -> None:
        """The backbone stays as it is."""

    def reads(self) -> frozenset[Kind]:
        return Intermediates.reads

    def readout(self, encoder: Encoder) -> Intermediates:
        """66,816 features for ViT-B/16."""
        return Intermediates(sum(group_widths(encoder.vit)))

    def phases(self, encoder: Encoder) -> tuple[Phase, ...]:
        """A head that chooses features, and one that reads them."""
        widths = torch.tensor(group_widths(encoder.vit))
        groups = torch.arange(len(widths)).repeat_interleave(widths)
        return selection_phases(keep_fraction=self.keep_fraction, lasso=self.lasso, groups=groups)
