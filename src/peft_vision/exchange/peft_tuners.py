"""This module writes a model that was tuned by a method of Hugging Face's `peft` as `peft` itself saves it: its own
model is made of the same config, gets the same tensors, and is asked to save itself.

A LoRA whose initial values took a part out of the weights (PiSSA, OLoRA) is written as one of twice the rank, which
fits the weights as they are: down and -initial_down side by side with up and initial_up.
"""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peft_vision.core.config import ConfigError, build
from peft_vision.exchange.timm_weights import classifiers, plain_head
from peft_vision.method.base import Method
from peft_vision.method.hf_peft import NAME, HFPeft, TunedByPeft
from peft_vision.models.model import Model

_PREFIX = "base_model.model."


def is_tuned_by_peft(model: Model) -> bool:
    """Return whether the model's method is one of `peft`."""
    return isinstance(build(model.recipe.method, Method, "method"), HFPeft)


def write(model: Model, vit: nn.Module, folder: Path) -> None:
    """Write the files of `peft` into `folder`. `vit`: timm's own model of the same shape with the backbone's weights
    and a classifier for the model's classes, which is changed. Raise ValueError where `peft` would compute something
    else, or where the head is more than a linear layer."""
    import peft

    wrappers = {name: m for name, m in model.encoder.added().items() if isinstance(m, TunedByPeft)}
    weight, bias = plain_head(model)
    with torch.no_grad():
        for name in classifiers(vit):
            vit.get_submodule(name).weight.copy_(weight)
            vit.get_submodule(name).bias.copy_(bias)
    doubled = any(wrapper.initial_up is not None for wrapper in wrappers.values())
    config = _settings(model, list(wrappers), doubled=doubled)
    config.modules_to_save = list(classifiers(vit))
    with warnings.catch_warnings(action="ignore"):
        made = peft.get_peft_model(vit, config)
        expected = made.state_dict()
        state = {
            f"{_PREFIX}{path}.{name}": tensor
            for path, wrapper in wrappers.items()
            for name, tensor in _tensors(wrapper).items()
        }
        if strangers := [name for name, tensor in state.items() if not _fits(expected, name, tensor)]:
            raise ValueError(f"peft has no place for {strangers[0]}")
        made.load_state_dict(state, strict=False)
        config.base_model_name_or_path = f"timm/{model.recipe.without_places().backbone['name']}"
        config.inference_mode = True
        made.save_pretrained(str(folder))


def read(folder: Path, vit: nn.Module) -> nn.Module:
    """Return timm's model with the adapter in `folder`, in evaluation mode, as `peft` loads it."""
    import peft

    with warnings.catch_warnings(action="ignore"):
        return peft.PeftModel.from_pretrained(vit, str(folder)).eval()


def check_installed() -> None:
    """Raise ConfigError if `peft` is not installed."""
    if find_spec("peft") is None:
        raise ConfigError("task.format=peft: this run needs peft to be written: pip install 'peft-vision[hf_peft]'")


def _settings(model: Model, paths: list[str], *, doubled: bool) -> Any:
    method: HFPeft = build(model.recipe.method, Method, "method")
    settings = method.settings(paths)
    if doubled:
        settings.init_lora_weights = True
        scale = settings.lora_alpha / (settings.r**0.5 if settings.use_rslora else settings.r)
        settings.r, settings.lora_alpha, settings.use_rslora = 2 * settings.r, 2 * settings.r * scale, False
    return settings


def _tensors(wrapper: TunedByPeft) -> Mapping[str, Tensor]:
    """Return the tensors of a layer by the names that they have in `peft`."""
    state = dict(wrapper.layer.state_dict())
    if wrapper.initial_up is not None:
        down, up = f"lora_A.{NAME}.weight", f"lora_B.{NAME}.weight"
        state[down] = torch.cat([state[down], wrapper.initial_down])
        state[up] = torch.cat([state[up], -wrapper.initial_up], dim=1)
    return state


def _fits(expected: Mapping[str, Tensor], name: str, tensor: Tensor) -> bool:
    return name in expected and expected[name].shape == tensor.shape
