"""This module is the family of timm's Beit: BEiT (Bao et al., 2021, arXiv:2106.08254), BEiT v2 (Peng et al., 2022,
arXiv:2208.06366) and dBOT.

    scores of token i on token j = q_i k_j^T / sqrt(d) + table[position of i relative to j]

A table belongs to a layer, or to all layers together; it has entries for the class token. What a method adds has no
place in the image: its scores, and those on it, get nothing. So the keys of a context can be folded into VQT's queries.
timm's own attention reads `qkv.weight` directly; this layer calls the module, so a wrapper around it counts.
"""

from collections.abc import Sequence

import torch
from timm.models.beit import Attention, Beit, Block
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.attention import joined
from peft_vision.backbone.families.eva import EvaLayer
from peft_vision.backbone.families.token_trunk import TokenTrunk


class BeitTrunk(TokenTrunk):
    family = "beit"
    builds = Beit
    blocks = (Block,)
    attentions = (Attention,)
    of_model = ("rel_pos_bias",)
    of_block = ("gamma_1", "gamma_2")
    of_attention = ("q_bias", "v_bias", "relative_position_bias_table")

    def layer(self, block: nn.Module) -> "BeitLayer":
        return BeitLayer(block)

    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to tokens (B, N, D)."""
        model = self.model
        tokens = with_class_token(model.cls_token, model.patch_embed(images))
        return model.pos_drop(tokens if model.pos_embed is None else tokens + model.pos_embed)

    def positions(self) -> Sequence[Tensor | None]:
        """Return the table that all layers share, (heads, N, N), for each of them, or None."""
        shared = self.model.rel_pos_bias
        return [None if shared is None else shared()] * len(self.layers)


class BeitLayer(EvaLayer):
    """A block of timm's Beit."""

    def query_norm(self, q: Tensor) -> Tensor:
        return q

    def key_norm(self, k: Tensor) -> Tensor:
        return k

    def positioned(self, heads: Tensor, positions: Tensor | None, *added: Tensor) -> Tensor:
        return joined(heads, *added)

    def bias(self, rows: int, columns: int, positions: Tensor | None) -> Tensor | None:
        """Return this layer's own table and the shared one for the image's tokens, and 0 for all others."""
        table = None if self.attn.relative_position_bias_table is None else self.attn._get_rel_pos_bias()
        if positions is not None:
            table = positions.unsqueeze(0) if table is None else table + positions
        return widened(table, rows, columns)

    def key_value_weights(self, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return the weights, as in `Layer`: the scores of queries have no bias, whatever the table."""
        if type(self.attn.qkv) is not nn.Linear:
            return None
        _, w_key, w_value = self.attn.qkv.weight.chunk(3)
        return w_key, w_value, self.attn.v_bias


def widened(table: Tensor | None, rows: int, columns: int) -> Tensor | None:
    """Return a table of scores (1, H, N, N) for the first `rows` and `columns` tokens, with 0 for tokens beyond N."""
    if table is None:
        return None
    num_tokens = table.shape[-1]
    return F.pad(table[:, :, :rows], (0, columns - num_tokens, 0, max(0, rows - num_tokens)))


def with_class_token(class_token: Tensor | None, tokens: Tensor) -> Tensor:
    """Return the patches (B, N, D) behind the class token (1, 1, D) where there is one."""
    if class_token is None:
        return tokens
    return torch.cat([class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
