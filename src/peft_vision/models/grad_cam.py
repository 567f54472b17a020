"""This module computes Grad-CAM for a model of any family (Selvaraju et al., 2017, arXiv:1610.02391, equations 1, 2).

    w_k = mean over places of d y / d A_k;    map = ReLU(sum over k of w_k A_k)

y is the model's output for a class, before any softmax, and A_k channel k of the grid that leaves a layer.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.models.model import Model


def grad_cam(model: Model, images: Tensor, target: Callable[[Tensor], Tensor], *, layer: int | None) -> Tensor:
    """Return maps (B, h, w), not negative, for images (B, C, H, W), uint8 or normalised floats.

    `target` maps the model's outputs (B, C) to the explained one of each image, (B,). `layer`: the index of the layer
    whose output the maps are of; None: the last one whose outputs at the patches reach the head. A border that a method
    adds to images is part of the maps. Raise ConfigError where the layer's output is no grid, or is not read.
    """
    encoder = model.encoder
    if layer is None and "contexts" not in encoder.trunk.lacks and encoder.trunk.num_read < encoder.num_tokens:
        layer = len(encoder.layers) - 2  # the last layer computes the pooled tokens alone
    if layer is not None and not -1 < layer < len(encoder.layers):
        raise ConfigError(f"task.layer: {encoder.name} has no layer {layer} that patches leave and the head reads")
    if layer is not None and not encoder.trunk.divides:
        raise ConfigError(f"task.layer: {encoder.name} is computed by timm's own forward; leave task.layer=null")
    with _gradients_through(model), torch.enable_grad(), _caught(model, layer) as caught:
        seen = encoder.observe(model.normalize(images), model.readout.reads, contexts_of=model.readout.contexts_of)
        outputs = model.logits(model.readout(seen))
        (gradient,) = torch.autograd.grad(target(outputs).sum(), caught, allow_unused=True)
    if gradient is None:
        raise ConfigError(f"task.map: no gradient of the head reaches layer {layer} of {encoder.name}")
    values, slopes = (_grid(model, tensor.detach().float(), layer) for tensor in (caught[0], gradient))
    return torch.relu((slopes.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1))


@contextmanager
def _gradients_through(model: Model) -> Iterator[None]:
    """Let the encoder keep what a backward pass needs, which it only does where something in it trains; parameters that
    do not train are as before afterwards."""
    trains = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        list(model.encoder.vit.parameters())[-1].requires_grad_(True)
        yield
    finally:
        for parameter, before in trains.items():
            parameter.requires_grad_(before)


@contextmanager
def _caught(model: Model, layer: int | None) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass within the block fills with the output of a layer, or with what is pooled, as a
    leaf of the graph."""
    caught: list[Tensor] = []

    def leaf(tokens: Tensor) -> Tensor:
        caught.append(tokens.detach().requires_grad_(True))
        return caught[0]

    trunk = model.encoder.trunk
    if layer is not None:
        hook = model.encoder.layers[layer].register_forward_hook(lambda module, args, output: leaf(output))
        try:
            yield caught
        finally:
            hook.remove()
        return
    pool = trunk.pool
    try:
        trunk.pool = lambda tokens: pool(leaf(tokens))
        yield caught
    finally:
        del trunk.pool


def _grid(model: Model, tokens: Tensor, layer: int | None) -> Tensor:
    """Map what leaves a layer to (B, D, h, w): tokens (B, N, D), the image's patches among them, or maps with channels
    first or last."""
    encoder = model.encoder
    stage = encoder.stages[-1 if layer is None else layer]
    if tokens.ndim == 4:
        width = encoder.width if layer is None else stage.width
        return tokens.permute(0, 3, 1, 2) if tokens.shape[3] == width != tokens.shape[1] else tokens
    if tokens.ndim != 3 or stage.grid is None or tokens.shape[1] < stage.num_prefix + math.prod(stage.grid):
        raise ConfigError(
            f"task.map: what leaves {'the last layer' if layer is None else f'layer {layer}'} of {encoder.name} is "
            f"{tuple(tokens.shape[1:])} of an image, which is no grid of it"
        )
    patches = tokens[:, stage.num_prefix : stage.num_prefix + math.prod(stage.grid)]
    return patches.mT.unflatten(2, stage.grid)
