"""BitFit: the backbone's biases train, nothing else (Ben Zaken et al., 2021, arXiv:2106.10199)."""

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import component
from peft_vision.method.base import Method


@component
class BitFit(Method):
    def attach(self, encoder: Encoder) -> None:
        """Every bias, those of norms and of the patches' projection too: 102,912 parameters for ViT-B/16."""
        for module in encoder.own_modules(self.chosen(encoder)):
            bias = getattr(module, "bias", None)
            if bias is not None:
                bias.requires_grad_(True)
