"""This module reads the attention weights of layers while a model runs, and rolls them out from the last layer to the
patches of the image (Abnar and Zuidema, 2020, arXiv:2005.00928).

    A_l = softmax(q k^T / sqrt(d) + bias), mean over heads;    R = (A_L + I) / 2 ... (A_1 + I) / 2

Letters: B images, H heads, Q rows (queries), N columns (tokens, and behind them what a method adds as context).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError


@contextmanager
def noted_weights(encoder: Encoder, layers: Sequence[int]) -> Iterator[list[Tensor]]:
    """Yield a list that whatever runs within the block fills with the attention weights (B, H, Q, N), in fp32, of the
    layers at these indices, in the order in which they run. Each row is not negative and sums to one."""
    encoder.require({"contexts"}, group="task.map")
    noted: list[Tensor] = []
    observed = [encoder.layers[index] for index in layers]
    try:
        for layer in observed:
            layer.weights_observer = lambda weights: noted.append(weights.float())
        yield noted
    finally:
        for layer in observed:
            layer.weights_observer = None


def num_pooled(encoder: Encoder) -> int:
    """Return how many leading tokens are pooled into the features: 1 for a class token. Raise ConfigError where the
    backbone pools patches, or by an attention of its own, so that no token stands for the class."""
    encoder.require({"contexts"}, group="task.map")
    read = encoder.trunk.num_read
    if read >= encoder.num_tokens:
        raise ConfigError(
            f"task.map: {encoder.name} pools all its tokens here, and none of them stands for the class; "
            "set task.map=grad_cam"
        )
    return read


def on_patches(weights: Tensor, encoder: Encoder) -> Tensor:
    """Map weights (B, ..., N) to those on the patches, (B, ..., h, w); their sum is below one by what class, register
    and added tokens got."""
    stage = encoder.stages[0]
    rows, columns = stage.grid
    return weights[..., stage.num_prefix : stage.num_prefix + rows * columns].unflatten(-1, (rows, columns))


def rollout(weights: Sequence[Tensor], num_tokens: int) -> Tensor:
    """Return the weights (B, Q, N) of the last layer's rows on the `num_tokens` tokens of the image that enter the
    first layer, given those of each layer, (B, H, Q, N). What a method adds (prompts) comes from no image: its columns
    are left out where it is added, and the others scaled so that each row sums to one. A layer that computes few rows,
    as the last one does for a class token, computes the leading ones."""
    rolled = torch.eye(num_tokens, device=weights[0].device)
    for of_layer in weights:
        mean = of_layer.mean(dim=1)
        inside = mean[:, :, : rolled.shape[-2]]
        inside = inside / inside.sum(dim=-1, keepdim=True)
        through = inside + torch.eye(*inside.shape[1:], device=inside.device)  # the residual connection
        rolled = (through / through.sum(dim=-1, keepdim=True)) @ rolled
    return rolled
