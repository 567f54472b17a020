"""LayerNorm tuning: the norms' weights and biases train, nothing else (Basu et al., 2023, arXiv:2304.01917).

In a convolutional backbone these are its batch and group norms. The statistics of batch norms stay as they are.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError, component
from peft_vision.method.base import Method

_OF_TORCH = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm)
_OF_TIMM = ("timm.layers.norm", "timm.layers.grn", "timm.layers.evo_norm", "timm.layers.filter_response_norm")


@component
class LayerNorm(Method):
    def attach(self, encoder: Encoder) -> None:
        """Unfreeze every norm of the chosen layers, the final norm with the last layer: 38,400 parameters for
        ViT-B/16. Raise ConfigError where they have none with parameters."""
        norms = filter(is_norm, encoder.own_modules(self.chosen(encoder)))
        parameters = [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
        if not parameters:
            raise ConfigError(
                f"method: layer_norm trains norms, and these layers of {encoder.name} have none; use bitfit"
            )
        for parameter in parameters:
            parameter.requires_grad_(True)


def is_norm(module: nn.Module) -> bool:
    """Return whether torch or timm defines the module among its norms, with or without an activation."""
    return isinstance(module, _OF_TORCH) or type(module).__module__.startswith(_OF_TIMM)
