"""SSF: scale and shift the features after every operation (Lian et al., 2022, arXiv:2210.08823).

y = scale * x + shift    after patches, norms and linear layers, for the MLP's first one before its activation
"""

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import component
from peft_vision.method.base import Method
from peft_vision.method.scale_shift import ScaleShift

_PLACES = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@component
class SSF(Method):
    def attach(self, encoder: Encoder) -> None:
        """Add L * (16 + 6) * D + 4 * D parameters for L layers of width D whose MLP is four times as wide."""
        vit, indices = encoder.vit, self.chosen(encoder)
        places = [f"blocks.{index}.{place}" for index in indices for place in _PLACES]
        if 0 in indices:
            places.append("patch_embed.proj")
        if len(encoder.layers) - 1 in indices:
            places += [name for name in ("norm", "fc_norm") if next(encoder.part(name).parameters(), None) is not None]
        for place in places:
            inner = encoder.part(place)
            width = getattr(inner, "out_features", None) or getattr(inner, "out_channels", None) or vit.embed_dim
            encoder.replace(place, ScaleShift(inner, width))
