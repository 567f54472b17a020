"""This module provides the attention primitive: a block updates queries by attending to a context.

    z = q + Wo softmax(Wq LN(q) (Wk LN(c))^T) Wv LN(c),    then    z + MLP(LN(z))

With queries = context = tokens it is timm's block. Rows whose outputs are not read are never queries, and tokens that
only serve as context (prompts before a block whose prompt outputs are discarded) are projected to keys and values once.
A few queries on a context that no gradient reaches need no keys and values at all, see `look`.

Letters: B images, N tokens, D width, H heads, Q queries, d width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.fixed_context import FixedContextAttention
from peft_vision.backbone.linear import Wrapper, part
from peft_vision.backbone.stage import Ports


class Layer(Ports):
    """A block of a plain ViT, under timm's parameter names, that computes only the rows that are read. Other families
    override the parts of the primitive that differ.

    `rows`: number of leading tokens that are updated (None: all). `observer`: called with the layer's context, what
    attention reads of the tokens (B, N, D), with the prompts appended; None when nothing observes it.
    `weights_observer`: called with the weights of each attention, see `attention_weights.py`; None likewise.
    `padding`: called with the number of columns of the scores, returns what hides the filling behind an image's own
    context, see `scores_bias`; None where all images have the same context. `post_norm`: whether norms follow the
    branches, so that attention and MLP read the tokens as they are.
    """

    post_norm: bool = False

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.rows: int | None = None
        self.observer: Callable[[Tensor], None] | None = None
        self.weights_observer: Callable[[Tensor], None] | None = None
        self.padding: Callable[[int], Tensor | None] | None = None

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map (B, N, D) to (B, rows or N, D). `positions`: what the family's trunk gives this layer in each pass."""
        if self.entrance is not None:
            tokens = self.entrance(tokens)
        normed = self.attended(tokens)
        contexts = [normed]
        if self.context is not None:
            contexts.append(self.attended(self.context(tokens.shape[0])))
        if self.observer is not None:
            self.observer(joined(*contexts))
        if self.rows is None or self.rows == tokens.shape[1]:
            return update(self, tokens, normed, *contexts, positions=positions)
        return update(self, tokens[:, : self.rows], normed[:, : self.rows], *contexts, positions=positions)

    def attended(self, tokens: Tensor) -> Tensor:
        """Return what attention reads of the tokens, (B, N, D)."""
        return tokens if self.post_norm else self.norm1(tokens)

    def heads(self, normed: Tensor, *, first: int, last: int) -> tuple[Tensor, ...]:
        """Return parts `first` to `last` (exclusive) of the queries, keys and values of `normed` (B, N, D), each
        (B, H, N, d), neither normed nor positioned."""
        projected = project(self.attn.qkv, normed, first=first, last=last)
        return split_heads(self.attn, projected, parts=last - first)

    def query_norm(self, q: Tensor) -> Tensor:
        return self.attn.q_norm(q)

    def key_norm(self, k: Tensor) -> Tensor:
        return self.attn.k_norm(k)

    def positioned(self, heads: Tensor, positions: Tensor | None, *added: Tensor) -> Tensor:
        """Return queries or keys (B, H, n, d) of the image's leading tokens, with rotary positions where the family has
        them, and behind them those of `added` tokens (B or 1, H, P, d), which have no position."""
        return joined(heads, *added)

    def bias(self, rows: int, columns: int, positions: Tensor | None) -> Tensor | None:
        """Return what is added to the scores of the image's first `rows` tokens on `columns` tokens, those of the image
        first, (1, H, rows, columns); it is zero for added tokens, and None where the family has no bias."""
        return None

    def key_value_weights(self, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return the weights (H * d, D) of keys and of values and the bias (H * d,) of values, if projecting is all
        that makes them of a context; None if not."""
        if type(self.attn.qkv) is not nn.Linear or not isinstance(self.attn.k_norm, nn.Identity):
            return None
        _, w_key, w_value = self.attn.qkv.weight.chunk(3)
        return w_key, w_value, None if self.attn.qkv.bias is None else self.attn.qkv.bias.chunk(3)[2]

    def attention_output(self, mixed: Tensor, normed: Tensor) -> Tensor:
        """Return what attention adds to its queries, (B, Q, D), before stochastic depth. `mixed`: their weighted values
        (B, Q, H * d); `normed`: what attention read of the queries."""
        output = self.projected(mixed, normed)
        return self.ls1(self.norm1(output) if self.post_norm else output)

    def projected(self, mixed: Tensor, normed: Tensor) -> Tensor:
        """Return the weighted values after the norm, the gate and the output projection of attention."""
        attention = self.attn
        if hasattr(attention, "norm"):
            mixed = attention.norm(mixed)
        if getattr(attention, "gate", None) is not None:
            mixed = mixed * attention.gate(normed).sigmoid()
        return attention.proj_drop(attention.proj(mixed))

    def mlp_input(self, tokens: Tensor) -> Tensor:
        """Return what the MLP reads of the tokens, (B, Q, D)."""
        return tokens if self.post_norm else self.norm2(tokens)

    def mlp_output(self, normed: Tensor) -> Tensor:
        """Return what the MLP adds to tokens, (B, Q, D), before stochastic depth."""
        output = self.computed(normed)
        return self.ls2(self.norm2(output) if self.post_norm else output)

    def computed(self, normed: Tensor) -> Tensor:
        """Return the output of the MLP itself, (B, Q, D)."""
        return self.mlp(normed)

    def scores_bias(self, rows: int, columns: int, positions: Tensor | None) -> Tensor | None:
        """Return `bias`, and where images have different numbers of context tokens, a sum (B, H or 1, rows or 1,
        columns) that hides from each image those that others have beyond its own."""
        bias = self.bias(rows, columns, positions)
        hidden = None if self.padding is None else self.padding(columns)
        return bias if hidden is None else hidden if bias is None else bias + hidden

    def left(self, tokens: Tensor) -> Tensor:
        """Return what leaves attention and MLP, (B, Q, D): a norm of it where a family's blocks end with one."""
        return tokens


def update(layer: Layer, queries: Tensor, normed: Tensor, *contexts: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the queries (B, Nq, D), which are the image's leading tokens, after the layer; `normed` is what attention
    reads of them.

    Keys and values come from `contexts`, each (B or 1, N, D) and normed as well; the first holds the image's tokens in
    their order, the others what a method adds. A context that does not depend on the image has batch size 1 and is
    projected once for the whole batch. A wrapper around a sub-module (a LoRA on `attn.qkv`) applies to queries and
    contexts alike.
    """
    if contexts[0] is normed:
        q, key, value = layer.heads(normed, first=0, last=3)
    else:
        (q,) = layer.heads(normed, first=0, last=1)
        key, value = layer.heads(contexts[0], first=1, last=3)
    added = [layer.heads(context, first=1, last=3) for context in contexts[1:]]
    q = layer.positioned(layer.query_norm(q), positions)
    key = layer.positioned(layer.key_norm(key), positions, *(layer.key_norm(further) for further, _ in added))
    value = joined(value, *(further for _, further in added))
    mixed = _mix(layer, q, key, value, layer.scores_bias(q.shape[2], key.shape[2], positions))
    return finish(layer, queries, normed, mixed, apart=False)


def look(layer: Layer, queries: Tensor, context: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the queries (B or 1, Q, D), each processed independently, after the layer: (B, Q, D).

    Keys and values come from `context`, (B, N, D), what attention reads of an image's tokens; the queries themselves
    have no position, and no bias. Where no gradient reaches the context and no rotation stands between queries and
    keys, the key projection is folded into the queries and the values are projected after mixing: q_h (Wk_h c)^T =
    (q_h Wk_h) c^T and softmax(...) (Wv_h c) = Wv_h (softmax(...) c), per head h. Key biases shift all scores of a query
    equally and cancel in the softmax; value biases pass unchanged, as the weights of the softmax sum to one. So nothing
    of size N D^2 is computed, and no keys or values are kept for the backward pass.
    """
    normed = layer.attended(queries)
    (q,) = layer.heads(normed, first=0, last=1)
    q = layer.query_norm(q)
    weights = layer.key_value_weights(positions)
    bare = weights is not None and not attention_dropout(layer.attn) and layer.weights_observer is None
    # an exported graph cannot hold a function that defines its own gradient
    if bare and not context.requires_grad and not torch.compiler.is_exporting():
        mixed = _mix_folded(layer.attn.scale, q, context, *weights)
    else:  # a norm or a rotation of keys, dropped weights or a wrapper of unknown effect prevents folding
        key, value = layer.heads(context.to(queries.dtype), first=1, last=3)  # a stored one may be of 16 bit
        key = layer.positioned(layer.key_norm(key), positions)
        mixed = _mix(layer, q.expand(context.shape[0], -1, -1, -1), key, value, None)
    return finish(layer, queries, normed, mixed, apart=True)


def _mix(layer: Layer, q: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return the values (B, H, N, d) weighted by attention for queries (B, H, Q, d): (B, Q, H * d). There may be fewer
    heads of keys and values: each then serves as many consecutive heads of queries."""
    if key.shape[1] < q.shape[1]:
        groups = q.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if layer.weights_observer is not None:
        scores = layer.attn.scale * q @ key.mT
        layer.weights_observer((scores if bias is None else scores + bias).softmax(dim=-1))
    mixed = F.scaled_dot_product_attention(
        q, key, value, attn_mask=bias, dropout_p=attention_dropout(layer.attn), scale=layer.attn.scale
    )
    return mixed.transpose(1, 2).flatten(2)


def attention_dropout(attention: nn.Module) -> float:
    """Return the current dropout rate of attention weights, read from the dropout module itself: the modules around it
    may be held in evaluation mode."""
    return attention.attn_drop.p if attention.attn_drop.training else 0.0


def _mix_folded(
    scale: float, q: Tensor, context: Tensor, w_key: Tensor, w_value: Tensor, value_bias: Tensor | None
) -> Tensor:
    """Return what `_mix` does, for normed queries (B or 1, H, Q, d) and a context (B, N, D), without keys and
    values."""
    _, heads, count, head_dim = q.shape
    w_key, w_value = (weight.view(heads, head_dim, -1) for weight in (w_key, w_value))
    folded = torch.einsum("bhqd,hde->bqhe", q * scale, w_key).flatten(1, 2)
    mixed = FixedContextAttention.apply(folded.expand(len(context), -1, -1), context)
    values = torch.einsum("bqhe,hde->bqhd", mixed.unflatten(1, (count, heads)), w_value).flatten(2)
    return values if value_bias is None else values + value_bias


def finish(layer: Layer, queries: Tensor, normed: Tensor, mixed: Tensor, *, apart: bool) -> Tensor:
    """Return the layer's output for `queries`, given their mixed values (B, Q, H * d). `apart`: whether they are
    queries of `look`, not rows of an image."""
    tokens = queries + layer.drop_path1(layer.attention_output(mixed, normed))
    for module in layer.beside_attention:
        tokens = tokens + _beside(module, queries, normed, apart=apart)
    normed = layer.mlp_input(tokens)
    updated = tokens + layer.drop_path2(layer.mlp_output(normed))
    for module in layer.beside_mlp:
        updated = updated + _beside(module, tokens, normed, apart=apart)
    updated = layer.left(updated)
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
    if (first, last) == (0, 3):
        return qkv(tokens)
    if isinstance(qkv, nn.Linear | Wrapper):
        width = qkv.out_features // 3
        return part(qkv, tokens, slice(first * width, last * width))
    projected = qkv(tokens)
    width = projected.shape[-1] // 3
    return projected[..., first * width : last * width]


def split_heads(attention: nn.Module, projected: Tensor, *, parts: int) -> tuple[Tensor, ...]:
    """Split (B, N, parts * H * d) into `parts` tensors (B, H, N, d)."""
    # split before the axes change places, so that the backward pass joins gradients as they lie in memory
    heads = projected.unflatten(-1, (parts, attention.num_heads, -1)).unbind(2)
    return tuple(part.transpose(1, 2) for part in heads)


def joined(tokens: Tensor, *added: Tensor) -> Tensor:
    """Return heads (B, H, n, d) or tokens (B, n, d) with `added` ones behind them, of as many images or one for all of
    them: n + P in the place of n."""
    if not added:
        return tokens
    return torch.cat([tokens, *(part.expand(tokens.shape[0], *part.shape[1:]) for part in added)], dim=-2)
