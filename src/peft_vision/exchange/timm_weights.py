"""This module turns a trained model into a plain timm Vision Transformer with a classifier: tuned parameters are merged
into the weights."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peft_vision.backbone.merge import merged, plain_names, unmergeable
from peft_vision.method.base import Pooled
from peft_vision.models.model import Model
from peft_vision.objective.regression import Numbers


def timm_state(model: Model) -> dict[str, Tensor]:
    """Return the tensors under timm's names, head included. Raise ValueError with the reason where the model is more
    than a plain ViT."""
    weight, bias = plain_head(model)
    if strangers := unmergeable(model.encoder):
        named = f"{', '.join(strangers[:2])}{' and others' if strangers[2:] else ''}"
        raise ValueError(f"{named}: no weight of a plain backbone computes that; task.format=onnx takes any method")
    names = plain_names(model.encoder)
    with merged(model.encoder):
        state = {name: tensor.detach().cpu().clone() for name, tensor in model.encoder.vit.state_dict().items()}
    check_loadable(state.keys(), names)
    for name in classifiers(model.encoder.vit):
        state |= {f"{name}.weight": weight.cpu().clone(), f"{name}.bias": bias.cpu().clone()}
    return state


def classifiers(vit: nn.Module) -> tuple[str, ...]:
    """Return timm's name of the classifier; a distilled model has two, whose logits it averages."""
    names = getattr(vit, "pretrained_cfg", {}).get("classifier") or "head"  # a folder's config.json may name none
    return (names,) if isinstance(names, str) else tuple(names)


def check_loadable(merged_names: Set[str], names: Set[str]) -> None:
    """Raise ValueError where a merged backbone has more tensors than `names`, those of the plain one."""
    if lacking := sorted(merged_names - names):
        raise ValueError(
            f"{lacking[0]}: this backbone has no such weight, and what was tuned needs one, so timm could not load it; "
            "task.format=onnx takes any method"
        )


def plain_head(model: Model) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the single linear layer that equals the head in evaluation, in the units of the targets
    where it learned numbers. Raise ValueError where the head is more than that."""
    if model.segments:
        raise ValueError("its head segments, and timm's models end in a head on one vector; task.format=onnx takes any")
    if not isinstance(model.readout, Pooled):
        raise ValueError("its head reads more than the backbone's pooled features; task.format=onnx takes any method")
    *before, last = [module for module in model.head.modules() if not isinstance(module, nn.Sequential | nn.Dropout)]
    weight, bias = last.weight.detach().double(), last.bias.detach().double()
    for module in before:
        if not isinstance(module, nn.BatchNorm1d):
            raise ValueError(f"its head holds a {type(module).__name__}, and timm's is one linear layer")
        weight = weight / torch.sqrt(module.running_var + module.eps)
        bias = bias - weight @ module.running_mean.double()
    if isinstance(model.criterion, Numbers):  # timm's model answers in the targets' own units, as ours does
        mean, std = model.criterion.mean.double(), model.criterion.std.double()
        weight, bias = weight * std[:, None], bias * std + mean
    return weight.to(last.weight), bias.to(last.bias)


def of_timm(name: str, arguments: Mapping[str, Any], num_classes: int, file: Path) -> str:
    """Return the line that creates `model`, with its classifier, from the weights in `file`."""
    made = _created(name, {"num_classes": num_classes, **arguments})
    loaded = f"model.load_state_dict(safetensors.torch.load_file({str(file)!r}))"
    return f"import timm, safetensors.torch; model = {made}; {loaded}; model.eval()"


def of_peft(name: str, arguments: Mapping[str, Any], num_classes: int, folder: Path, weights: Path | None) -> str:
    """Return the line that creates `model` from the LoRA in `folder` and a backbone with the hub's weights, or with
    those in the file `weights`."""
    if weights is None:
        modules = "timm, peft"
        made = f"vit = {_created(name, {'pretrained': True, 'num_classes': num_classes, **arguments})}"
    else:
        modules = "timm, peft, safetensors.torch"
        made = f"vit = {_created(name, {'num_classes': 0, **arguments})}; "
        made += (
            f"vit.load_state_dict(safetensors.torch.load_file({str(weights)!r})); vit.reset_classifier({num_classes})"
        )
    return f"import {modules}; {made}; model = peft.PeftModel.from_pretrained(vit, {str(folder)!r}).eval()"


def _created(name: str, arguments: Mapping[str, Any]) -> str:
    given = (
        f"{key}={f'timm.layers.{value}' if key == 'mlp_layer' else repr(value)}" for key, value in arguments.items()
    )
    return f"timm.create_model({', '.join([repr(name), *given])})"
