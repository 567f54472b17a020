"""The attention primitive: a block updates queries by looking at a context.

    z = q + Wo softmax(Wq LN(q) (Wk LN(c))^T) Wv LN(c),    then    z + MLP(LN(z))

With queries = context = tokens it is timm's block. Rows that nobody reads are never queries, and tokens that only
serve as context (prompts before a block whose prompt outputs are thrown away) are projected to keys and values once.
A few queries that look at a context which no gradient reaches need no keys and values at all, see `look`.
Letters: B images, N tokens, D width, H heads, Q queries.
"""

from collections.abc import Callable

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.fixed_context import FixedContextAttention


class Layer(nn.Module):
    """A timm `Block`, under the same parameter names, that computes only the rows that are read.

    `rows`: how many leading tokens are updated (None: all of them). `context`: a module that gives further context,
    (B or 1, P, D), for a batch size B; None at first. `observer`: is called with LN(tokens), (B, N, D), the part of the
    context that is the image's; None unless somebody looks.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.rows: int | None = None
        self.context: nn.Module | None = None
        self.observer: Callable[[Tensor], None] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, rows or N, D)."""
        if self.observer is not None:
            self.observer(self.norm1(tokens))
        queries = tokens if self.rows is None or self.rows == tokens.shape[1] else tokens[:, : self.rows]
        further = [] if self.context is None else [self.context(tokens.shape[0])]
        return update(self, queries, tokens, *further)


def update(block: nn.Module, queries: Tensor, *contexts: Tensor) -> Tensor:
    """(B, Nq, D) queries after one block whose keys and values come from `contexts`, each (B or 1, N, D).

    A context that does not depend on the image has batch size 1 and is projected once for the whole batch. What
    wraps a sub-module (a LoRA on `attn.qkv`) is seen by queries and contexts alike; only a bare `qkv` is sliced.
    """
    attention = block.attn
    normed = block.norm1(queries)
    keys, values = [], []
    if contexts[0] is queries:
        q, k, v = split_heads(attention, attention.qkv(normed), parts=3)
        keys.append(k)
        values.append(v)
        contexts = contexts[1:]
    else:
        (q,) = split_heads(attention, project(attention.qkv, normed, first=0, last=1), parts=1)
    for context in contexts:
        k, v = split_heads(attention, project(attention.qkv, block.norm1(context), first=1, last=3), parts=2)
        keys.append(k.expand(q.shape[0], -1, -1, -1))
        values.append(v.expand(q.shape[0], -1, -1, -1))
    key = torch.cat(keys, dim=2) if len(keys) > 1 else keys[0]
    value = torch.cat(values, dim=2) if len(values) > 1 else values[0]
    return _finish(block, queries, normed, _mix(attention, q, key, value))


def look(block: nn.Module, queries: Tensor, context: Tensor) -> Tensor:
    """(B or 1, Q, D) queries after one block, (B, Q, D). Keys and values come from `context`, (B, N, D), which the
    block's first norm has normed already.

    Where no gradient reaches the context, the key projection is folded into the queries and the values are projected
    after mixing: q_h (Wk_h c)^T = (q_h Wk_h) c^T and softmax(...) (Wv_h c) = Wv_h (softmax(...) c), per head h. Key
    biases shift all scores of a query alike and drop out of the softmax; value biases pass it unchanged, as its weights
    sum to one. So nothing of size N D^2 is computed, and no keys or values are kept for the backward pass.
    """
    attention = block.attn
    normed = block.norm1(queries)
    (q,) = split_heads(attention, project(attention.qkv, normed, first=0, last=1), parts=1)
    bare = type(attention.qkv) is nn.Linear and isinstance(attention.k_norm, nn.Identity)
    if bare and not context.requires_grad:
        mixed = _mix_folded(attention, attention.q_norm(q), context)
    else:  # a norm of the keys stands between the projections; what a wrapper computes cannot be known here
        key, value = split_heads(attention, project(attention.qkv, context, first=1, last=3), parts=2)
        mixed = _mix(attention, q.expand(len(context), -1, -1, -1), key, value)
    return _finish(block, queries, normed, mixed)


def _mix(attention: nn.Module, q: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Values (B, H, N, d) weighted for queries (B, H, Q, d): (B, Q, H * d)."""
    mixed = F.scaled_dot_product_attention(
        attention.q_norm(q),
        attention.k_norm(key),
        value,
        dropout_p=attention.attn_drop.p if attention.training else 0.0,
        scale=attention.scale,
    )
    return mixed.transpose(1, 2).flatten(2)


def _mix_folded(attention: nn.Module, q: Tensor, context: Tensor) -> Tensor:
    """The same for normed queries (B or 1, H, Q, d) from a context (B, N, D)."""
    _, heads, count, head_dim = q.shape
    _, w_key, w_value = attention.qkv.weight.view(3, heads, head_dim, -1).unbind(0)
    folded = torch.einsum("bhqd,hde->bqhe", q * attention.scale, w_key).flatten(1, 2)
    mixed = FixedContextAttention.apply(folded.expand(len(context), -1, -1), context)
    values = torch.einsum("bqhe,hde->bqhd", mixed.unflatten(1, (count, heads)), w_value).flatten(2)
    return values if attention.qkv.bias is None else values + attention.qkv.bias[-values.shape[-1] :]


def _finish(block: nn.Module, queries: Tensor, normed: Tensor, mixed: Tensor) -> Tensor:
    """From mixed values (B, Q, H * d) to the block's output for `queries`."""
    attention = block.attn
    mixed = attention.norm(mixed)
    if attention.gate is not None:
        mixed = mixed * attention.gate(normed).sigmoid()
    mixed = attention.proj_drop(attention.proj(mixed))
    tokens = queries + block.drop_path1(block.ls1(mixed))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


def project(qkv: nn.Module, tokens: Tensor, *, first: int, last: int) -> Tensor:
    """Parts `first` to `last` (exclusive) of the query, key and value projections, (B, N, (last - first) * width)."""
    if type(qkv) is nn.Linear:
        width = qkv.out_features // 3
        rows = slice(first * width, last * width)
        return F.linear(tokens, qkv.weight[rows], None if qkv.bias is None else qkv.bias[rows])
    projected = qkv(tokens)  # wrapped: what the wrapper adds must not be bypassed
    width = projected.shape[-1] // 3
    return projected[..., first * width : last * width]


def split_heads(attention: nn.Module, projected: Tensor, *, parts: int) -> tuple[Tensor, ...]:
    """(B, N, parts * H * d) to `parts` tensors (B, H, N, d)."""
    batch, length, _ = projected.shape
    heads = projected.reshape(batch, length, parts, attention.num_heads, attention.head_dim)
    return heads.permute(2, 0, 3, 1, 4).unbind(0)
