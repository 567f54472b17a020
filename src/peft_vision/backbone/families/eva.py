"""This module is the family of timm's Eva: DINOv3 (Siméoni et al., 2025, arXiv:2508.10104), EVA and EVA-02 (Fang et
al., 2023, arXiv:2303.11331), the Perception Encoder (Bolya et al., 2025, arXiv:2504.13181) and ViTs with rotary
positions (Heo et al., 2024, arXiv:2403.13298).

    q, k = R(positions) q, R(positions) k    for patches; the class token, registers and added tokens stay as they are

A rotation stands between queries and keys, so keys cannot be folded into the queries of VQT. timm's own attention reads
`qkv.weight` directly, so a module around `qkv` would be bypassed by it: this layer calls the module. The random shifts
and scales of coordinates in timm's rotary modules act in training mode alone, in which a frozen backbone never is.
"""

from collections.abc import Mapping, Sequence

import torch
from timm.layers import AttentionRope, PatchEmbed
from timm.layers import apply_rot_embed_cat as rotated
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from peft_vision.backbone.attention import Layer, project, split_heads
from peft_vision.backbone.families.trunk import TokenTrunk, norms_last
from peft_vision.backbone.stage import Site

_PARTS = ("q_proj", "k_proj", "v_proj")


class EvaTrunk(TokenTrunk):
    family = "eva"
    builds = Eva

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        if type(model.patch_embed) is not PatchEmbed:
            return f"it embeds patches with {type(model.patch_embed).__name__}"
        known = (EvaBlock, EvaBlockPostNorm)
        if blocks := {type(block).__name__ for block in model.blocks if type(block) not in known}:
            return f"its blocks are {', '.join(blocks)}"
        known = (EvaAttention, AttentionRope)
        if attentions := {type(b.attn).__name__ for b in model.blocks if type(b.attn) not in known}:
            return f"its attention is {', '.join(attentions)}"
        if model.patch_drop is not None:
            return "it drops patches (patch_drop_rate), so that the number of tokens changes"
        return None

    def layer(self, block: nn.Module) -> Layer:
        return PostNormEvaLayer(block) if isinstance(block, EvaBlockPostNorm) else EvaLayer(block)

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

    def _operations(self, block: str, sites: Mapping[str, tuple[Site, ...]]) -> tuple[str, ...]:
        """Return the paths in the order of computation: in a post-norm block each norm follows its branch."""
        found = super()._operations(block, sites)
        return norms_last(found) if isinstance(self.model.get_submodule(block), PostNormEvaLayer) else found


class EvaLayer(Layer):
    """A pre-norm block of timm's Eva. `gamma_1`, `gamma_2`: its layer scales (D,), or None."""

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

    def positioned(self, heads: Tensor, positions: Tensor | None) -> Tensor:
        """Return queries or keys (B, H, n, d) of leading tokens with those of patches turned. What follows the patches
        (prompts that travel with the tokens) has no position."""
        start = self.attn.num_prefix_tokens
        if positions is None or heads.shape[2] <= start:
            return heads
        patches = heads[:, :, start : start + positions.shape[-2]]
        table = positions[..., : patches.shape[2], :]
        turned = rotated(patches, table, half=self.attn.rotate_half)
        return torch.cat([heads[:, :, :start], turned, heads[:, :, start + patches.shape[2] :]], dim=2)

    def key_value_weights(self, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return the weights of a fused projection, as in `Layer`; None for one that is apart, and where keys are
        turned."""
        apart = self.attn.qkv is None or positions is not None
        weights = None if apart else super().key_value_weights(positions)
        if weights is None or (bias := _bias(self.attn)) is None:
            return weights
        return (*weights[:2], bias[2])

    def attention_output(self, mixed: Tensor, normed: Tensor) -> Tensor:
        return self.ls1(_scaled(self.projected(mixed, normed), self.gamma_1))

    def mlp_output(self, normed: Tensor) -> Tensor:
        return self.ls2(_scaled(self.mlp(normed), self.gamma_2))


class PostNormEvaLayer(EvaLayer):
    """A block of timm's Eva whose norms follow its branches, so that attention and MLP read the tokens as they are."""

    def attended(self, tokens: Tensor) -> Tensor:
        return tokens

    def attention_output(self, mixed: Tensor, normed: Tensor) -> Tensor:
        return self.ls1(self.norm1(self.projected(mixed, normed)))

    def mlp_input(self, tokens: Tensor) -> Tensor:
        return tokens

    def mlp_output(self, normed: Tensor) -> Tensor:
        return self.ls2(self.norm2(self.mlp(normed)))


def _scaled(tokens: Tensor, gamma: Tensor | None) -> Tensor:
    return tokens if gamma is None else gamma * tokens


def _bias(attention: nn.Module) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the biases (H * d,) of queries, keys and values that are not in `qkv`, or None."""
    if getattr(attention, "q_bias", None) is None:
        return None
    return attention.q_bias, attention.k_bias, attention.v_bias
