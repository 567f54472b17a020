"""This module is the family of timm's VisionTransformerRelPos: ViTs whose only positions are biases of attention's
scores, from a table (Liu et al., 2021, arXiv:2103.14030) or from a small MLP of log-spaced distances (Liu et al., 2021,
arXiv:2111.09883).

A layer has biases of its own, or all layers share them. As in `beit.py`, added tokens get no bias.
"""

from collections.abc import Sequence

from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from torch import Tensor, nn

from peft_vision.backbone.attention import Layer
from peft_vision.backbone.families.beit import widened, with_class_token
from peft_vision.backbone.families.token_trunk import TokenTrunk


class RelativeTrunk(TokenTrunk):
    family = "relative_vit"
    builds = VisionTransformerRelPos
    blocks = (RelPosBlock, ResPostRelPosBlock)
    post_norm_blocks = (ResPostRelPosBlock,)
    attentions = (RelPosAttention,)
    of_model = ("shared_rel_pos",)
    of_block = ("ls1", "ls2")
    of_attention = ("q_norm", "k_norm", "rel_pos")

    def layer(self, block: nn.Module) -> "RelativeLayer":
        return RelativeLayer(block)

    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to tokens (B, N, D)."""
        return with_class_token(self.model.cls_token, self.model.patch_embed(images))

    def positions(self) -> Sequence[Tensor | None]:
        """Return the biases that all layers share, (1, heads, N, N), for each of them, or None."""
        shared = self.model.shared_rel_pos
        return [None if shared is None else shared.get_bias()] * len(self.layers)


class RelativeLayer(Layer):
    """A block of timm's VisionTransformerRelPos."""

    def bias(self, rows: int, columns: int, positions: Tensor | None) -> Tensor | None:
        """Return this layer's own biases, or else the shared ones, for the image's tokens, and 0 for all others."""
        table = positions if self.attn.rel_pos is None else self.attn.rel_pos.get_bias()
        return widened(table, rows, columns)
