"""This module copies a model, so that the copies share what never changes, and mixes the copies on one backbone."""

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Around
from peft_vision.backbone.quantized import QuantizedLinear
from peft_vision.backbone.stage import Ports
from peft_vision.core.config import ConfigError
from peft_vision.mixing.mixture import Changes, Mixture
from peft_vision.models.model import Model


def twin(model: Model, *, own: Collection[str] = ()) -> Model:
    """Return a copy of a model that shares what never changes, but for the tensors of the names in `own`."""
    named = model.named_parameters()
    memo: dict[int, Any] = {id(held): held for name, held in named if not held.requires_grad and name not in own}
    memo |= {id(buffer): buffer for module in model.encoder.held() for buffer in module.buffers(recurse=False)}
    packed = [module.packed for module in model.modules() if isinstance(module, QuantizedLinear)]
    return copy.deepcopy(model, memo | {id(matrix): matrix for matrix in packed})


def mixed(model: Model, twins: Sequence[Model]) -> Mixture:
    """Return the mixture of copies of a model. Raise ConfigError where their images cannot share a pass."""
    kept = [parameter for parameter in model.encoder.backbone_parameters if not parameter.requires_grad]
    kept += [buffer for module in model.encoder.held() for buffer in module.buffers(recurse=False)]
    shared = frozenset(tensor.data_ptr() for tensor in kept)
    for each in twins:
        each.round_observations_to(torch.float32)  # tokens that a pass goes on from are rounded before
    changes = [Changes(each, shared) for each in twins]
    for each in twins:  # by itself, each is scored as its run alone would be
        each.round_observations_to(model.observed_type, grid=model.grid_type)
    if (reason := changes[0].reason) is not None:
        raise ConfigError(
            f"optimizer: Grid trains its settings in the same steps, and {reason}; use hydra/sweeper=tune"
        )
    mixture = Mixture(_bare(twin(model).encoder, changes[0]), twins, changes, shared)
    mixture.let_train()
    return mixture


def _bare(encoder: Encoder, changes: Changes) -> Encoder:
    """Remove what a method added to an encoder, and return the encoder."""
    for path in changes.places:
        module = encoder.part(path)
        while isinstance(module, Around):
            module = module.inner
        encoder.replace(path, module)
    for layer in encoder.layers:
        if isinstance(layer, Ports):
            layer.entrance = layer.context = None
            for modules in (layer.beside_attention, layer.beside_mlp, layer.behind):
                del modules[:]
    return encoder


def drops(model: Model) -> bool:
    """Return whether any module drops in training, whether or not that changes anything yet."""
    rates = [getattr(module, name, 0) for module in model.modules() if module.training for name in ("p", "drop_prob")]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def gradients_of(model: Model) -> dict[str, Tensor]:
    """Return the gradients of what trains, zeros where there are none, and forget them."""
    named = {name: parameter for name, parameter in model.trained().items() if parameter.requires_grad}
    found = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in named.items()
    }
    for parameter in named.values():
        if parameter.grad is not None:
            parameter.grad.zero_()
    return found
