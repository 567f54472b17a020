"""This module provides the layers of Swin (Liu et al., 2021, arXiv:2103.14030) and Swin-V2 (Liu et al., 2021,
arXiv:2111.09883), whose tokens lie on a grid and attend within windows.

    Swin       scores = q k^T / sqrt(d) + table + mask
    Swin-V2    scores = exp(s) cos(q, k) + 16 sigmoid(MLP(log-spaced distances)) + mask
    Swin-V2Cr  scores = exp(s) cos(q, k) + MLP(log-spaced distances) + mask

Every other layer shifts the grid by half a window, and the mask keeps apart what is not adjacent in the image.

What a method adds to the tokens is treated as in VPT (Jia et al., 2022, arXiv:2203.12119): it is in every window, with
neither table nor mask; an added token's attention is the mean of what it gets in all windows of its image; and merging
reads it in the place of all four patches. The tokens of an image are projected once, and put in windows afterwards, so
added ones are projected once as well, not once a window.

Letters: B images, N patches, P added tokens, D width, W windows, A patches of a window, H heads, d width of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.attention import Layer, attention_dropout, finish, project


class SwinLayer(Layer):
    """A block of timm's SwinTransformer, behind the merging of patches where it is the first of its group.

    Tokens are (B, N + P, D), the patches first, row by row. `rows`: number of leading tokens that are updated. `grid`:
    rows and columns of patches; `entering`: those of what enters, which is merged first where there is `merging`.
    """

    def __init__(
        self, block: nn.Module, merging: nn.Module | None, grid: tuple[int, int], entering: tuple[int, int]
    ) -> None:
        super().__init__(block)
        self.grid = grid
        self.window: tuple[int, int] = tuple(block.window_size)
        self.shift: tuple[int, int] = tuple(block.shift_size)
        self.entering = entering
        self._merging = () if merging is None else (merging,)  # in a tuple, so not registered here under another name
        self.register_buffer("attn_mask", block.attn_mask, persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map (B, N, D), or what is merged to that, to (B, rows or N, D)."""
        for merging in self._merging:
            tokens = _merged(merging, tokens, self.entering)
        if self.entrance is not None:
            tokens = self.entrance(tokens)
        rows = tokens.shape[1] if self.rows is None else self.rows
        normed = self.attended(tokens)
        context = None if self.context is None else self.attended(self.context(tokens.shape[0]))
        mixed = self._mixed(self.projection(normed), context, rows=rows)
        return finish(self, tokens[:, :rows], normed[:, :rows], mixed, apart=False)

    def projection(self, normed: Tensor, *, first: int = 0) -> Tensor:
        """Return queries, keys and values of (B, n, D), from part `first` on, side by side: (B, n, parts * H * d)."""
        return project(self.attn.qkv, normed, first=first, last=3)

    def query_norm(self, q: Tensor) -> Tensor:
        return q

    def key_norm(self, k: Tensor) -> Tensor:
        return k

    @property
    def scale(self) -> float:
        """Return the factor of the product of queries and keys."""
        return self.attn.scale

    def table(self) -> Tensor:
        """Return what is added to the scores of a window's patches, (1, H, A, A)."""
        return self.attn._get_rel_pos_bias()

    def _mixed(self, projected: Tensor, context: Tensor | None, *, rows: int) -> Tensor:
        """Return the values (B, rows, H * d) weighted by attention, for projected tokens (B, N + P, 3 * H * d) and for
        further tokens (B or 1, P, D) to attend to, which are normed."""
        batch, count = len(projected), math.prod(self.grid)
        q, k, v = self._windows(projected[:, :count])
        queries, keys, values = [self.query_norm(q)], [self.key_norm(k)], [v]
        windows = k.shape[1]
        if projected.shape[1] > count:
            added_q, added_k, added_v = self._heads(projected[:, count:], parts=3)
            queries.append(_everywhere(self.query_norm(added_q[:, :, : rows - count]), batch, windows))
            keys.append(_everywhere(self.key_norm(added_k), batch, windows))
            values.append(_everywhere(added_v, batch, windows))
        if context is not None:
            added_k, added_v = self._heads(self.projection(context, first=1), parts=2)
            keys.append(_everywhere(self.key_norm(added_k), batch, windows))
            values.append(_everywhere(added_v, batch, windows))
        q, k, v = (torch.cat(parts, dim=3) if len(parts) > 1 else parts[0] for parts in (queries, keys, values))
        mixed = F.scaled_dot_product_attention(
            q.flatten(1, 2),  # windows beside heads: a mask of either then has the four axes of fused kernels
            k.flatten(1, 2),
            v.flatten(1, 2),
            attn_mask=self._scores(q.shape[3], k.shape[3], windows),
            dropout_p=attention_dropout(self.attn),
            scale=self.scale,
        ).unflatten(1, (windows, -1))
        area = math.prod(self.window)
        patches = self._grid(mixed[:, :, :, :area])
        if rows <= count:
            return patches
        return torch.cat([patches, mixed[:, :, :, area:].mean(dim=1).transpose(1, 2).flatten(2)], dim=1)

    def _heads(self, projected: Tensor, *, parts: int) -> tuple[Tensor, ...]:
        """Split (B, n, parts * H * d) into tensors (B, H, n, d)."""
        return projected.unflatten(-1, (parts, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _windows(self, projected: Tensor) -> tuple[Tensor, ...]:
        """Split the projected patches (B, N, 3 * H * d) into queries, keys and values of windows, (B, W, H, A, d)."""
        grid = projected.unflatten(1, self.grid)
        if any(self.shift):
            grid = grid.roll([-steps for steps in self.shift], dims=(1, 2))
        missing = [-side % length for side, length in zip(self.grid, self.window, strict=True)]
        if any(missing):  # timm's windows are filled up with tokens of zeros, whose keys are those of a zero
            nothing = projected.new_zeros(1, 1, self.attn.qkv.in_features)
            filling = self.projection(nothing, first=1)
            filling = F.pad(filling, (projected.shape[-1] - filling.shape[-1], 0)).unsqueeze(1)
            grid = torch.cat([grid, filling.expand(len(grid), grid.shape[1], missing[1], -1)], dim=2)
            grid = torch.cat([grid, filling.expand(len(grid), missing[0], grid.shape[2], -1)], dim=1)
        rows, columns = self.window
        split = grid.unflatten(3, (3, self.attn.num_heads, -1)).unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        split = split.permute(5, 0, 1, 3, 6, 2, 4, 7)
        return split.flatten(5, 6).flatten(2, 3).unbind(0)

    def _grid(self, mixed: Tensor) -> Tensor:
        """Return the patches (B, N, H * d) of windows (B, W, H, A, d): the inverse of `_windows`."""
        (height, width), (rows, columns) = self.grid, self.window
        split = mixed.unflatten(3, self.window).unflatten(1, (-(-height // rows), -(-width // columns)))
        grid = split.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return (grid.roll(self.shift, dims=(1, 2)) if any(self.shift) else grid).flatten(1, 2)

    def _scores(self, rows: int, columns: int, windows: int) -> Tensor:
        """Return what is added to the scores of the first `rows` on the first `columns` tokens of each window and head,
        (1, W * H, rows, columns): for patches the table and the mask, for all others 0."""
        scores = self.table()
        if self.attn_mask is not None:
            scores = scores + self.attn_mask.unsqueeze(1)
        area = scores.shape[-1]
        scores = F.pad(scores, (0, columns - area, 0, rows - area))
        return scores.expand(windows, -1, -1, -1).flatten(0, 1).unsqueeze(0)


class SwinV2Layer(SwinLayer):
    """A block of timm's SwinTransformerV2: cosine attention with a learned temperature, and norms behind the
    branches."""

    post_norm = True

    def projection(self, normed: Tensor, *, first: int = 0) -> Tensor:
        projected, attention = super().projection(normed, first=first), self.attn
        if attention.q_bias is None:
            return projected
        return projected + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias][first:])

    def query_norm(self, q: Tensor) -> Tensor:
        temperature = self.attn.logit_scale.clamp(max=math.log(1.0 / 0.01)).exp()
        return F.normalize(q, dim=-1) * temperature.view(-1, 1, 1)

    def key_norm(self, k: Tensor) -> Tensor:
        return F.normalize(k, dim=-1)

    @property
    def scale(self) -> float:
        return 1.0

    def table(self) -> Tensor:
        attention, area = self.attn, math.prod(self.window)
        distances = attention.cpb_mlp(attention.relative_coords_table).flatten(0, 2)
        table = distances[attention.relative_position_index.flatten()].view(area, area, -1)
        return 16 * table.permute(2, 0, 1).sigmoid().unsqueeze(0)


class SwinV2CrLayer(SwinV2Layer):
    """A block of timm's SwinTransformerV2Cr, whose projections have their biases, and some of which end with a norm of
    the stream."""

    def projection(self, normed: Tensor, *, first: int = 0) -> Tensor:
        return project(self.attn.qkv, normed, first=first, last=3)

    def table(self) -> Tensor:
        return self.attn._relative_positional_encodings()

    def left(self, tokens: Tensor) -> Tensor:
        return self.norm3(tokens)


def _merged(merging: nn.Module, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Merge the patches of tokens (B, N + P, D) on a grid, and each added token as if it were a patch and the three
    around it: (B, N / 4 + P, 2 * D)."""
    count = math.prod(grid)
    patches = merging(tokens[:, :count].unflatten(1, grid)).flatten(1, 2)
    if tokens.shape[1] == count:
        return patches
    squares = tokens[:, None, count:].repeat_interleave(2, dim=2).expand(-1, 2, -1, -1)
    return torch.cat([patches, merging(squares).flatten(1, 2)], dim=1)


def _everywhere(heads: Tensor, batch: int, windows: int) -> Tensor:
    """Return added tokens (B or 1, H, P, d) in every window: (B, W, H, P, d)."""
    return heads.unsqueeze(1).expand(batch, windows, -1, -1, -1)
