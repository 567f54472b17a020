"""Full fine-tuning, or of a part of the layers: their parameters train. Drop path and dropout are active where all do.

Partial-k trains the last k layers and the final norm, as in the VPT paper (Jia et al., 2022, arXiv:2203.12119).
"""

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import component
from peft_vision.method.base import Method


@component
class Full(Method):
    def attach(self, encoder: Encoder) -> None:
        """Trains all of it, or the chosen layers with what belongs to the first and to the last."""
        for module in encoder.parts(self.chosen(encoder)):
            module.requires_grad_(True)
