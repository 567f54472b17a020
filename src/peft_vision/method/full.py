"""Full fine-tuning, or of a part of the layers: their parameters train.

With `probe_first` it is LP-FT (Kumar et al., 2022, arXiv:2202.10054): a fresh head would distort the features that it
reads until it fits them, so it is fitted first. The paper then trains in evaluation mode.

Partial-k trains the last k layers and the final norm, as in the VPT paper (Jia et al., 2022, arXiv:2203.12119).
"""

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import component
from peft_vision.method.base import Method


@component
class Full(Method):
    """`eval_mode`: no drop path and no dropout while it trains."""

    eval_mode: bool

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Not where all of it trains."""
        return drops and self.layers != "all"

    def attach(self, encoder: Encoder) -> None:
        """Trains all of it, or the chosen layers with what belongs to the first and to the last."""
        encoder.evaluates = self.eval_mode
        for module in encoder.parts(self.chosen(encoder)):
            module.requires_grad_(True)
