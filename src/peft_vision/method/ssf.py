"""SSF: scale and shift the features after every operation (Lian et al., 2022, arXiv:2210.08823).

y = scale * x + shift    after patches, norms and linear layers, for the MLP's first one before its activation
"""

import timm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Mergeable
from peft_vision.core.config import ConfigError, component
from peft_vision.method.base import Method
from peft_vision.method.scale_shift import ScaledNorm, ScaleShift


@component
class SSF(Method):
    def attach(self, encoder: Encoder) -> None:
        """Add L * (16 + 6) * D + 4 * D parameters for L layers of width D whose MLP is four times as wide. Raise
        ConfigError where nothing can be scaled."""
        trunk, indices = encoder.trunk, self.chosen(encoder)
        places = [path for index in indices for path in encoder.stages[index].operations]
        if 0 in indices:
            places += trunk.stem_operations
        if len(encoder.stages) - 1 in indices:
            places += encoder.end_operations
        if not places:
            raise ConfigError(f"method: ssf scales what has a bias, and these layers of {encoder.name} have none")
        for place in places:
            inner = encoder.part(place)
            encoder.replace(place, _wrapper(inner)(inner, _width(inner)))


def _wrapper(inner: nn.Module) -> type[ScaleShift]:
    """Return the kind of wrapper for a linear layer, a convolution or a norm of the last axis, wrapped or not, or for a
    norm of another axis or with an activation."""
    plain = (nn.LayerNorm, timm.layers.LayerNorm)
    other = isinstance(inner, nn.LayerNorm | nn.GroupNorm | _BatchNorm) and type(inner) not in plain
    return ScaledNorm if other else ScaleShift


def _width(inner: nn.Module) -> int:
    """Return the number of outputs of a linear layer, a convolution or a norm, wrapped or not."""
    while isinstance(inner, Mergeable) and not hasattr(inner.inner, "out_features"):
        inner = inner.inner
    width = getattr(inner, "out_features", None) or getattr(inner, "out_channels", None)
    return width or next(inner.parameters()).shape[-1]
