"""This module writes the line of Python that loads an exported file without this package: timm builds the backbone,
with the size, pooling and architecture of its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft_vision.backbone.load import Backbone


def timm_arguments(backbone: Backbone) -> dict[str, Any]:
    """Return the arguments of timm's `create_model`, besides the name and the number of classes, that build such a
    backbone."""
    pool = {} if backbone.pool is None else {"global_pool": backbone.pool}
    return {"img_size": backbone.preprocessing().size, **pool, **backbone.architecture}


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
    return f"timm.create_model({', '.join([repr(name), *(f'{key}={value!r}' for key, value in arguments.items())])})"
