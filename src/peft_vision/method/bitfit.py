"""BitFit: the backbone's biases train, nothing else (Ben Zaken et al., 2021, arXiv:2106.10199)."""

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError, component
from peft_vision.method.base import Method


@component
class BitFit(Method):
    def attach(self, encoder: Encoder) -> None:
        """Unfreeze every bias of the chosen layers, including norms and the patch projection: 102,912 parameters for
        ViT-B/16. Raise ConfigError where they have none."""
        biases = [
            parameter
            for module in encoder.own_modules(self.chosen(encoder))
            for name, parameter in module.named_parameters(recurse=False)
            if name == "bias" or name.endswith("_bias")  # timm's EVA and BEiT have q_bias and v_bias
        ]
        if not biases:
            raise ConfigError(f"method: bitfit trains biases, and these layers of {encoder.name} have none; use linear")
        for bias in biases:
            bias.requires_grad_(True)
