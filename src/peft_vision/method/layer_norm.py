"""LayerNorm tuning: the norms' weights and biases train, nothing else (Basu et al., 2023, arXiv:2304.01917)."""

from timm.layers import RmsNorm
from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import component
from peft_vision.method.base import Method


@component
class LayerNorm(Method):
    def attach(self, encoder: Encoder) -> None:
        """Unfreeze every norm of the chosen layers, the final norm with the last layer: 38,400 parameters for
        ViT-B/16."""
        for module in encoder.own_modules(self.chosen(encoder)):
            if isinstance(module, nn.LayerNorm | nn.RMSNorm | RmsNorm):
                module.requires_grad_(True)
