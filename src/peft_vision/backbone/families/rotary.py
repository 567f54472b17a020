"""This module turns queries and keys by rotary positions (Su et al., 2021, arXiv:2104.09864), and appends to the keys
those of a method's tokens, in one pass over memory.

    (y_1, y_2) = (c_1 x_1 - s_1 x_2, c_2 x_2 + s_2 x_1)             for the pairs x_1, x_2 of a head's channels
    (d x_1, d x_2) = (c_1 d y_1 + s_2 d y_2, c_2 d y_2 - s_1 d y_1)

timm computes the same as x * cos + turned(x) * sin between the tokens that have no position, which takes three
concatenations and as many temporary tensors; the backward pass takes twice as many.

Letters: B images, H heads, n tokens, P added tokens, d width of a head.
"""

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from peft_vision.backbone.attention import joined


def positioned(heads: Tensor, table: Tensor, *added: Tensor, start: int, half: bool) -> Tensor:
    """Return queries or keys (B, H, n, d) with the tokens from `start` on turned, and behind them `added` ones (B or 1,
    H, P, d) as they are.

    `table`: sines, then cosines, (patches, 2 * d) or (H, patches, 2 * d); there may be more tokens than patches, which
    are not turned either. `half`: whether the pairs are the first and the second half of a head's channels, not
    neighbours.
    """
    stop = min(start + table.shape[-2], heads.shape[2])
    if stop <= start:
        return joined(heads, *added)
    table = table[..., : stop - start, :]
    # the gradient of a learned table, and other types, are left to timm; an exported graph cannot hold a function
    # that defines its own gradient
    if table.requires_grad or heads.dtype != table.dtype or torch.compiler.is_exporting():
        turned = apply_rot_embed_cat(heads[:, :, start:stop], table, half=half)
        return joined(heads[:, :, :start], turned, heads[:, :, stop:], *added)
    return Turned.apply(heads, table, start, half, *added)


class Turned(torch.autograd.Function):
    """An autograd function of heads (B, H, n, d), of a table that does not train, and of further heads (B or 1, H, P,
    d) that are appended."""

    @staticmethod
    def forward(ctx, heads: Tensor, table: Tensor, start: int, half: bool, *added: Tensor) -> Tensor:
        """Return (B, H, n + P, d), which lies in memory token by token, as projections do."""
        ctx.save_for_backward(table)
        ctx.start, ctx.half, ctx.counts = start, half, [further.shape[2] for further in added]
        ctx.shared = [len(further) == 1 for further in added]
        batch, num_heads, count, width = heads.shape
        out = heads.new_empty(batch, count + sum(ctx.counts), num_heads, width).transpose(1, 2)
        _turn(heads, table, out[:, :, :count], start=start, half=half, back=False)
        for further, place in zip(added, out[:, :, count:].split(ctx.counts, dim=2), strict=True):
            place.copy_(further)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the heads and of the further heads; None for the other arguments."""
        (table,) = ctx.saved_tensors
        count = gradient.shape[2] - sum(ctx.counts)
        of_heads = None
        if ctx.needs_input_grad[0]:
            batch, num_heads, _, width = gradient.shape
            of_heads = gradient.new_empty(batch, count, num_heads, width).transpose(1, 2)
            _turn(gradient[:, :, :count], table, of_heads, start=ctx.start, half=ctx.half, back=True)
        of_added = gradient[:, :, count:].split(ctx.counts, dim=2)
        shared = zip(of_added, ctx.shared, strict=True)
        return of_heads, None, None, None, *(part.sum(dim=0, keepdim=True) if one else part for part, one in shared)


def _turn(heads: Tensor, table: Tensor, out: Tensor, *, start: int, half: bool, back: bool) -> None:
    """Fill `out` with the heads of which those that the table has positions for are turned, or turned back."""
    stop = start + table.shape[-2]
    out[:, :, :start] = heads[:, :, :start]
    out[:, :, stop:] = heads[:, :, stop:]
    turned, out = heads[:, :, start:stop], out[:, :, start:stop]
    sin, cos = table.chunk(2, dim=-1)
    torch.mul(turned, cos, out=out)
    (x_1, x_2), (y_1, y_2), (s_1, s_2) = (_pairs(tensor, half=half) for tensor in (turned, out, sin))
    if back:
        s_1, s_2 = -s_2, -s_1
    y_1.addcmul_(x_2, s_1, value=-1)
    y_2.addcmul_(x_1, s_2)


def _pairs(tensor: Tensor, *, half: bool) -> tuple[Tensor, Tensor]:
    """Return the first and the second channel of each pair."""
    if half:
        first, second = tensor.chunk(2, dim=-1)
        return first, second
    return tensor[..., ::2], tensor[..., 1::2]
