"""This module provides the attention primitive: a block updates queries by attending to a context.

    z = q + Wo softmax(Wq LN(q) (Wk LN(c))^T) Wv LN(c),    then    z + MLP(LN(z))

With queries = context = tokens it is timm's block. Rows whose outputs are not read are never queries, and tokens that
only serve as context (prompts before a block whose prompt outputs are discarded) are projected to keys and values once.
A few queries on a context that no gradient reaches need no keys and values at all, see `look`.

Letters: B images, N tokens, D width, H heads, Q queries.
"""

from collections.abc import Callable

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.fixed_context import FixedContextAttention
from peft_vision.backbone.linear import Wrapper, part
from peft_vision.core.config import ConfigError

_LISTS = ("beside_attention", "beside_mlp", "behind")
_SINGLE = ("entrance", "context")


class Layer(nn.Module):
    """A timm `Block`, under the same parameter names, that computes only the rows that are read.

    `rows`: number of leading tokens that are updated (None: all). `observer`: called with the layer's context,
    LN(tokens) (B, N, D), with the prompts appended; None when nothing observes it.

    A method may add modules, all absent at first: `entrance` maps the tokens before anything else; `context` returns
    further context, (B or 1, P, D), for a batch size B; each of `beside_attention` and `beside_mlp` maps the tokens
    that enter the branch and the same tokens normed, (B, Q, D) each, to a term added to the branch; each of `behind`
    maps the tokens that leave the layer to a term added to them.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.rows: int | None = None
        self.observer: Callable[[Tensor], None] | None = None
        self.entrance: nn.Module | None = None
        self.context: nn.Module | None = None
        self.beside_attention = nn.ModuleList()
        self.beside_mlp = nn.ModuleList()
        self.behind = nn.ModuleList()

    def __setattr__(self, name: str, value: object) -> None:
        """Raise ConfigError for an assignment that would discard what another method put in the same place, or put a
        module there that the layer cannot compute with."""
        there = self.__dict__.get("_modules", {}).get(name)
        if name in _LISTS and there is not None:
            raise ConfigError(f"method: layer.{name} is a list that several methods add to; append to it")
        if name in _SINGLE and None not in (there, value) and there not in value.modules():
            raise ConfigError(
                f"method: two of its parts fill layer.{name}, which holds one module; the second must wrap it"
            )
        if name == "attn" and there is not None and not hasattr(value, "qkv"):
            raise ConfigError("method: layer.attn is no place for a wrapper; wrap layer.attn.qkv or layer.attn.proj")
        super().__setattr__(name, value)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, rows or N, D)."""
        if self.entrance is not None:
            tokens = self.entrance(tokens)
        normed = self.norm1(tokens)
        contexts = [normed]
        if self.context is not None:
            contexts.append(self.norm1(self.context(tokens.shape[0])))
        if self.observer is not None:
            self.observer(_joined([context.expand(tokens.shape[0], -1, -1) for context in contexts], dim=1))
        if self.rows is None or self.rows == tokens.shape[1]:
            return update(self, tokens, normed, *contexts)
        return update(self, tokens[:, : self.rows], normed[:, : self.rows], *contexts)


def update(layer: Layer, queries: Tensor, normed: Tensor, *contexts: Tensor) -> Tensor:
    """Return the queries (B, Nq, D), `normed` by the layer's first norm, after the layer.

    Keys and values come from `contexts`, each (B or 1, N, D) and normed as well. A context that does not depend on the
    image has batch size 1 and is projected once for the whole batch. A wrapper around a sub-module (a LoRA on
    `attn.qkv`) applies to queries and contexts alike.
    """
    attention = layer.attn
    keys, values = [], []
    if contexts[0] is normed:
        q, k, v = split_heads(attention, attention.qkv(normed), parts=3)
        keys.append(k)
        values.append(v)
        contexts = contexts[1:]
    else:
        (q,) = split_heads(attention, project(attention.qkv, normed, first=0, last=1), parts=1)
    for context in contexts:
        k, v = split_heads(attention, project(attention.qkv, context, first=1, last=3), parts=2)
        keys.append(k.expand(q.shape[0], -1, -1, -1))
        values.append(v.expand(q.shape[0], -1, -1, -1))
    mixed = _mix(attention, q, _joined(keys, dim=2), _joined(values, dim=2))
    return _finish(layer, queries, normed, mixed, apart=False)


def look(layer: Layer, queries: Tensor, context: Tensor) -> Tensor:
    """Return the queries (B or 1, Q, D), each processed independently, after the layer: (B, Q, D).

    Keys and values come from `context`, (B, N, D), which the layer's first norm has already normed. Where no gradient
    reaches the context, the key projection is folded into the queries and the values are projected after mixing: q_h
    (Wk_h c)^T = (q_h Wk_h) c^T and softmax(...) (Wv_h c) = Wv_h (softmax(...) c), per head h. Key biases shift all
    scores of a query equally and cancel in the softmax; value biases pass unchanged, as the weights of the softmax sum
    to one. So nothing of size N D^2 is computed, and no keys or values are kept for the backward pass.
    """
    attention = layer.attn
    normed = layer.norm1(queries)
    (q,) = split_heads(attention, project(attention.qkv, normed, first=0, last=1), parts=1)
    bare = type(attention.qkv) is nn.Linear and isinstance(attention.k_norm, nn.Identity)
    bare = bare and not _attention_dropout(attention)
    # an exported graph cannot hold a function that defines its own gradient
    if bare and not context.requires_grad and not torch.compiler.is_exporting():
        mixed = _mix_folded(attention, attention.q_norm(q), context)
    else:  # a norm of keys, dropped weights or a wrapper of unknown effect prevents folding
        key, value = split_heads(attention, project(attention.qkv, context, first=1, last=3), parts=2)
        mixed = _mix(attention, q.expand(context.shape[0], -1, -1, -1), key, value)
    return _finish(layer, queries, normed, mixed, apart=True)


def _mix(attention: nn.Module, q: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the values (B, H, N, d) weighted by attention for queries (B, H, Q, d): (B, Q, H * d)."""
    mixed = F.scaled_dot_product_attention(
        attention.q_norm(q),
        attention.k_norm(key),
        value,
        dropout_p=_attention_dropout(attention),
        scale=attention.scale,
    )
    return mixed.transpose(1, 2).flatten(2)


def _attention_dropout(attention: nn.Module) -> float:
    """Return the current dropout rate of attention weights, read from the dropout module itself: the modules around it
    may be held in evaluation mode."""
    return attention.attn_drop.p if attention.attn_drop.training else 0.0


def _mix_folded(attention: nn.Module, q: Tensor, context: Tensor) -> Tensor:
    """Return what `_mix` does, for normed queries (B or 1, H, Q, d) and a context (B, N, D), without keys and
    values."""
    _, heads, count, head_dim = q.shape
    _, w_key, w_value = attention.qkv.weight.view(3, heads, head_dim, -1).unbind(0)
    folded = torch.einsum("bhqd,hde->bqhe", q * attention.scale, w_key).flatten(1, 2)
    mixed = FixedContextAttention.apply(folded.expand(len(context), -1, -1), context)
    values = torch.einsum("bqhe,hde->bqhd", mixed.unflatten(1, (count, heads)), w_value).flatten(2)
    return values if attention.qkv.bias is None else values + attention.qkv.bias[-values.shape[-1] :]


def _finish(layer: Layer, queries: Tensor, normed: Tensor, mixed: Tensor, *, apart: bool) -> Tensor:
    """Return the layer's output for `queries`, given their mixed values (B, Q, H * d). `apart`: whether they are
    queries of `look`, not rows of an image."""
    attention = layer.attn
    mixed = attention.norm(mixed)
    if attention.gate is not None:
        mixed = mixed * attention.gate(normed).sigmoid()
    mixed = layer.ls1(attention.proj_drop(attention.proj(mixed)))
    tokens = queries + layer.drop_path1(mixed)
    for module in layer.beside_attention:
        tokens = tokens + _beside(module, queries, normed, apart=apart)
    normed = layer.norm2(tokens)
    updated = tokens + layer.drop_path2(layer.ls2(layer.mlp(normed)))
    for module in layer.beside_mlp:
        updated = updated + _beside(module, tokens, normed, apart=apart)
    for module in layer.behind:
        updated = updated + module(updated)
    return updated


def _beside(module: nn.Module, tokens: Tensor, normed: Tensor, *, apart: bool) -> Tensor:
    """Return what `module` adds to tokens (B, Q, D); with `apart`, each token is processed as an image of its own."""
    if not apart:
        return module(tokens, normed)
    return module(tokens.flatten(0, 1).unsqueeze(1), normed.flatten(0, 1).unsqueeze(1)).view(tokens.shape)


def project(qkv: nn.Module, tokens: Tensor, *, first: int, last: int) -> Tensor:
    """Return parts `first` to `last` (exclusive) of the query, key and value projections, (B, N, (last - first) *
    width)."""
    if isinstance(qkv, nn.Linear | Wrapper):
        width = qkv.out_features // 3
        return part(qkv, tokens, slice(first * width, last * width))
    projected = qkv(tokens)
    width = projected.shape[-1] // 3
    return projected[..., first * width : last * width]


def split_heads(attention: nn.Module, projected: Tensor, *, parts: int) -> tuple[Tensor, ...]:
    """Split (B, N, parts * H * d) into `parts` tensors (B, H, N, d)."""
    batch, length, _ = projected.shape
    heads = projected.reshape(batch, length, parts, attention.num_heads, attention.head_dim)
    return heads.permute(2, 0, 3, 1, 4).unbind(0)


def _joined(tensors: list[Tensor], *, dim: int) -> Tensor:
    return torch.cat(tensors, dim=dim) if len(tensors) > 1 else tensors[0]
