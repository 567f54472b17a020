"""Full fine-tuning: the backbone's own parameters train, in all layers or in the chosen ones.

With `probe_first` it is LP-FT (Kumar et al., 2022, arXiv:2202.10054): a fresh head would distort the features that it
reads until it fits them, so the head is fitted first. The paper then trains in evaluation mode.

Partial-k trains the last k layers and the final norm, as in the VPT paper (Jia et al., 2022, arXiv:2203.12119).
"""

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import component
from peft_vision.method.base import Method


@component
class Full(Method):
    """A method that unfreezes the backbone. `eval_mode`: whether drop path and dropout are disabled during training."""

    eval_mode: bool

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Return whether the backbone drops and only some of its layers train: 0.1.0 dropped only where all of them
        did."""
        return drops and self.layers != "all"

    def attach(self, encoder: Encoder) -> None:
        """Unfreeze the chosen layers, with the modules before the first layer or after the last one where that one is
        chosen."""
        encoder.evaluates = self.eval_mode
        for module in encoder.parts(self.chosen(encoder)):
            module.requires_grad_(True)
