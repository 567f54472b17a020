"""This module is the family of timm's Eva: DINOv3 (Siméoni et al., 2025, arXiv:2508.10104), EVA and EVA-02 (Fang et
al., 2023, arXiv:2303.11331), the Perception Encoder (Bolya et al., 2025, arXiv:2504.13181) and ViTs with rotary
positions (Heo et al., 2024, arXiv:2403.13298).

    q, k = R(positions) q, R(positions) k    for patches; the class token, registers and added tokens stay as they are

A rotation stands between queries and keys, so keys cannot be folded into the queries of VQT. timm's own attention reads
`qkv.weight` directly, so a module around `qkv` would be bypassed by it: this layer calls the module. The random shifts
and scales of coordinates in timm's rotary modules act in training mode alone, in which a frozen backbone never is.
"""

from collections.abc import Sequence

import torch
from timm.layers import (
    AttentionRope,
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    RotaryEmbeddingMRope,
)
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from peft_vision.backbone.attention import Layer, project, split_heads
from peft_vision.backbone.families import rotary
from peft_vision.backbone.families.token_trunk import TokenTrunk
from peft_vision.backbone.families.trunk import DROPS_PATCHES, strangers

_ROPES = (RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed, RotaryEmbeddingMRope)
_PARTS = ("q_proj", "k_proj", "v_proj")


class EvaTrunk(TokenTrunk):
    family = "eva"
    builds = Eva
    blocks = (EvaBlock, EvaBlockPostNorm)
    post_norm_blocks = (EvaBlockPostNorm,)
    attentions = (EvaAttention, AttentionRope)
    of_model = ("rope",)
    of_block = ("gamma_1", "gamma_2")
    of_attention = ("q_proj", "k_proj", "v_proj", "q_bias", "v_bias", "q_norm", "k_norm", "norm", "gate")

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        ropes = [] if model.rope is None else [model.rope]
        reason = super().misfit(model) or strangers("its positions are", ropes, _ROPES)
        return DROPS_PATCHES if reason is None and model.patch_drop is not None else reason

    def layer(self, block: nn.Module) -> "EvaLayer":
        return EvaLayer(block)

    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to tokens (B, N, D)."""
        tokens, _ = self.model._pos_embed(self.model.patch_embed(images))
        return self.model.norm_pre(tokens)

    def positions(self) -> Sequence[Tensor | None]:
        """Return the table of sines and cosines of each layer, (H * W, 2 * d) of the grid of patches, or of each of its
        heads (heads, H * W, 2 * d) where the rotations are learned."""
        rope = self.model.rope
        if rope is None:
            return [None] * len(self.layers)
        known = getattr(rope, "feat_shape", None) is not None
        table = rope.get_embed() if known else rope.get_embed(shape=list(self.model.patch_embed.grid_size))
        return list(table) if self.model.rope_mixed else [table] * len(self.layers)


class EvaLayer(Layer):
    """A block of timm's Eva. `gamma_1`, `gamma_2`: its layer scales (D,), or None."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        for name in ("gamma_1", "gamma_2"):
            if not hasattr(self, name):
                self.register_parameter(name, None)

    def heads(self, normed: Tensor, *, first: int, last: int) -> tuple[Tensor, ...]:
        attention = self.attn
        if attention.qkv is None:
            parts = [getattr(attention, name)(normed) for name in _PARTS[first:last]]
            return tuple(part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for part in parts)
        if (bias := _bias(attention)) is None:
            return super().heads(normed, first=first, last=last)
        projected = project(attention.qkv, normed, first=first, last=last) + torch.cat(bias[first:last])
        return split_heads(attention, projected, parts=last - first)

    def positioned(self, heads: Tensor, positions: Tensor | None, *added: Tensor) -> Tensor:
        """Return queries or keys (B, H, n, d) of leading tokens with those of patches turned. What follows the patches
        (prompts that travel with the tokens) has no position."""
        if positions is None:
            return super().positioned(heads, positions, *added)
        return rotary.positioned(
            heads, positions, *added, start=self.attn.num_prefix_tokens, half=self.attn.rotate_half
        )

    def key_value_weights(self, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return the weights of a fused projection, as in `Layer`; None for one that is apart, and where keys are
        turned."""
        apart = self.attn.qkv is None or positions is not None
        weights = None if apart else super().key_value_weights(positions)
        if weights is None or (bias := _bias(self.attn)) is None:
            return weights
        return (*weights[:2], bias[2])

    def projected(self, mixed: Tensor, normed: Tensor) -> Tensor:
        return _scaled(super().projected(mixed, normed), self.gamma_1)

    def computed(self, normed: Tensor) -> Tensor:
        return _scaled(super().computed(normed), self.gamma_2)


def _scaled(tokens: Tensor, gamma: Tensor | None) -> Tensor:
    return tokens if gamma is None else gamma * tokens


def _bias(attention: nn.Module) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the biases (H * d,) of queries, keys and values that are not in `qkv`, or None."""
    if getattr(attention, "q_bias", None) is None:
        return None
    return attention.q_bias, attention.k_bias, attention.v_bias
