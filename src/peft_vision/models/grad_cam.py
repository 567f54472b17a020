"""This module lets Captum compute Grad-CAM for a model of any family (Selvaraju et al., 2017, arXiv:1610.02391,
equations 1 and 2).

    w_k = mean over places of d y / d A_k;    map = ReLU(sum over k of w_k A_k)

y is the model's output for a class, before any softmax, and A_k channel k of the grid that leaves a layer. Captum has
no maps of a layer of tokens: here it sees the grid that they are, and the model computes on from that.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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
    if importlib.util.find_spec("captum") is None:
        raise ConfigError("task.map=grad_cam needs captum: pip install 'peft-vision[explain]'")
    from captum.attr import LayerGradCam

    def explained(normalized: Tensor) -> Tensor:
        seen = encoder.observe(normalized, model.readout.reads, contexts_of=model.readout.contexts_of)
        return target(model.logits(model.readout(seen)))

    try:
        with _gradients_through(model), _shown(model, layer) as shown:
            maps = LayerGradCam(explained, shown).attribute(model.normalize(images), relu_attributions=True)
    except RuntimeError as error:
        if "not have been used" not in str(error):
            raise
        raise ConfigError(f"task.map: no gradient of the head reaches layer {layer} of {encoder.name}") from error
    return maps.squeeze(1).detach()


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
def _shown(model: Model, layer: int | None) -> Iterator[nn.Module]:
    """Yield a module whose output is the grid (B, D, h, w) of what leaves a layer, or of what is pooled, in each
    forward pass within the block."""
    shown = nn.Identity()

    def through_grid(tokens: Tensor) -> Tensor:
        grid, back = _grid(model, tokens.detach(), layer)
        return back(shown(grid.requires_grad_(True)))

    trunk = model.encoder.trunk
    if layer is not None:
        hook = model.encoder.layers[layer].register_forward_hook(lambda module, args, output: through_grid(output))
        try:
            yield shown
        finally:
            hook.remove()
        return
    pool = trunk.pool
    try:
        trunk.pool = lambda tokens: pool(through_grid(tokens))
        yield shown
    finally:
        del trunk.pool


def _grid(model: Model, tokens: Tensor, layer: int | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the grid (B, D, h, w) of what leaves a layer, and what maps it back: tokens (B, N, D), the image's patches
    among them, or maps with channels first or last."""
    encoder = model.encoder
    stage = encoder.stages[-1 if layer is None else layer]
    if tokens.ndim == 4:
        width = encoder.width if layer is None else stage.width
        if tokens.shape[3] == width != tokens.shape[1]:
            return tokens.permute(0, 3, 1, 2), lambda grid: grid.permute(0, 2, 3, 1)
        return tokens, lambda grid: grid
    if tokens.ndim != 3 or stage.grid is None or tokens.shape[1] < stage.num_prefix + math.prod(stage.grid):
        raise ConfigError(
            f"task.map: what leaves {'the last layer' if layer is None else f'layer {layer}'} of {encoder.name} is "
            f"{tuple(tokens.shape[1:])} of an image, which is no grid of it"
        )
    before, patches, after = tokens.tensor_split([stage.num_prefix, stage.num_prefix + math.prod(stage.grid)], dim=1)
    return patches.mT.unflatten(2, stage.grid), lambda grid: torch.cat([before, grid.flatten(2).mT, after], dim=1)
