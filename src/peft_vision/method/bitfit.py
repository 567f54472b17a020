"""BitFit: the backbone's biases train, nothing else (Ben Zaken et al., 2021, arXiv:2106.10199)."""

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import component
from peft_vision.method.base import Method


@component
class BitFit(Method):
    def attach(self, encoder: Encoder) -> None:
        """Unfreeze every bias of the chosen layers, including norms and the patch projection: 102,912 parameters for
        ViT-B/16."""
        for module in encoder.own_modules(self.chosen(encoder)):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias" or name.endswith("_bias"):  # timm's EVA and BEiT have q_bias and v_bias
                    parameter.requires_grad_(True)
