"""This module computes attention to a context that no gradient reaches, whose keys and values are the context itself.

    mixed = softmax(q c^T) c
    d q   = w (d w - sum(w d w)) c,     w = softmax(q c^T),  d w = d mixed c^T

Letters: B images, K queries of all heads, N tokens, D width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_CACHE_BYTES = 1280 * 1024  # so much context stays in the cache of a CPU core between two products


class FixedContextAttention(torch.autograd.Function):
    """An autograd function of queries (B, K, D) and a context (B, N, D) of any floating type. It keeps only the context
    and the attention weights: 16-bit contexts of a store stay 16-bit and are widened a few images at a time."""

    @staticmethod
    def forward(ctx, queries: Tensor, context: Tensor) -> Tensor:
        """Return (B, K, D), in autocast's type where autocast is on, otherwise in that of the queries."""
        device = queries.device.type
        ctx.queries_dtype = queries.dtype
        cast = torch.is_autocast_enabled(device)
        queries = queries.to(torch.get_autocast_dtype(device) if cast else queries.dtype)
        weights = queries.new_empty(*queries.shape[:2], context.shape[1])
        mixed = torch.empty_like(queries)
        for part, tokens in _widened(context, queries.dtype):
            weights[part] = torch.bmm(queries[part], tokens.mT).softmax(dim=-1)
            torch.bmm(weights[part], tokens, out=mixed[part])
        ctx.save_for_backward(weights, context)
        return mixed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the queries, and None for the context."""
        weights, context = ctx.saved_tensors
        gradient = gradient.to(weights.dtype)
        of_queries = torch.empty_like(gradient)
        for part, tokens in _widened(context, weights.dtype):
            of_weights = torch.bmm(gradient[part], tokens.mT)
            of_scores = weights[part] * (of_weights - (weights[part] * of_weights).sum(dim=-1, keepdim=True))
            torch.bmm(of_scores, tokens, out=of_queries[part])
        return of_queries.to(ctx.queries_dtype), None


def _widened(context: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of images with their context in `dtype`, a few images at a time in memory that the next ones
    overwrite; on a GPU all at once."""
    size = len(context)
    if context.device.type == "cpu":
        size = max(1, _CACHE_BYTES // (context.shape[1:].numel() * dtype.itemsize))
    scratch = (
        None if context.dtype == dtype else context.new_empty(min(size, len(context)), *context.shape[1:], dtype=dtype)
    )
    for start in range(0, len(context), size):
        tokens = context[start : start + size]
        yield slice(start, start + size), tokens if scratch is None else scratch[: len(tokens)].copy_(tokens)
