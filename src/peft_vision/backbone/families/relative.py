"""This module is the family of timm's VisionTransformerRelPos: ViTs whose only positions are biases of attention's
scores, from a table (Liu et al., 2021, arXiv:2103.14030) or from a small MLP of log-spaced distances (Liu et al., 2021,
arXiv:2111.09883).

A layer has biases of its own, or all layers share them. As in `beit.py`, added tokens get no bias.
"""

from collections.abc import Mapping, Sequence

from timm.layers import PatchEmbed
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from torch import Tensor, nn

from peft_vision.backbone.attention import Layer
from peft_vision.backbone.families.beit import widened, with_class_token
from peft_vision.backbone.families.trunk import TokenTrunk, norms_last
from peft_vision.backbone.stage import Site


class RelativeTrunk(TokenTrunk):
    family = "relative_vit"
    builds = VisionTransformerRelPos

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        if type(model.patch_embed) is not PatchEmbed:
            return f"it embeds patches with {type(model.patch_embed).__name__}"
        known = (RelPosBlock, ResPostRelPosBlock)
        if strangers := {type(block).__name__ for block in model.blocks if type(block) not in known}:
            return f"its blocks are {', '.join(strangers)}"
        if strangers := {type(b.attn).__name__ for b in model.blocks if type(b.attn) is not RelPosAttention}:
            return f"its attention is {', '.join(strangers)}"
        return None

    def layer(self, block: nn.Module) -> "RelativeLayer":
        return PostNormRelativeLayer(block) if isinstance(block, ResPostRelPosBlock) else RelativeLayer(block)

    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to tokens (B, N, D)."""
        return with_class_token(self.model.cls_token, self.model.patch_embed(images))

    def positions(self) -> Sequence[Tensor | None]:
        """Return the biases that all layers share, (1, heads, N, N), for each of them, or None."""
        shared = self.model.shared_rel_pos
        return [None if shared is None else shared.get_bias()] * len(self.layers)

    def _operations(self, block: str, sites: Mapping[str, tuple[Site, ...]]) -> tuple[str, ...]:
        found = super()._operations(block, sites)
        return norms_last(found) if isinstance(self.model.get_submodule(block), PostNormRelativeLayer) else found


class RelativeLayer(Layer):
    """A pre-norm block of timm's VisionTransformerRelPos."""

    def bias(self, rows: int, columns: int, positions: Tensor | None) -> Tensor | None:
        """Return this layer's own biases, or else the shared ones, for the image's tokens, and 0 for all others."""
        table = positions if self.attn.rel_pos is None else self.attn.rel_pos.get_bias()
        return widened(table, rows, columns)


class PostNormRelativeLayer(RelativeLayer):
    """A block whose norms follow its branches, so that attention and MLP read the tokens as they are."""

    def attended(self, tokens: Tensor) -> Tensor:
        return tokens

    def attention_output(self, mixed: Tensor, normed: Tensor) -> Tensor:
        return self.ls1(self.norm1(self.projected(mixed, normed)))

    def mlp_input(self, tokens: Tensor) -> Tensor:
        return tokens

    def mlp_output(self, normed: Tensor) -> Tensor:
        return self.ls2(self.norm2(self.mlp(normed)))
