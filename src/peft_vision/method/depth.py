"""This module resolves which layers a method works in: all, the first or last few, or those of a list.

The modules before the layers (patches, positions) belong to the first layer, those after the layers to the last.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError

_FEW = re.compile(r"(first|last)-([1-9]\d*)")


def _readable(layers: Any) -> str | tuple[int, ...]:
    if isinstance(layers, str) and (layers == "all" or _FEW.fullmatch(layers)):
        return layers
    if isinstance(layers, list | tuple) and all(type(index) is int and index >= 0 for index in layers):
        if len(set(layers)) < max(1, len(layers)):
            raise ValueError("should name each layer once, and at least one")
        return tuple(sorted(layers))
    raise ValueError("should be all, first-N, last-N, or a list such as [0,11], where 0 is the first layer")


Layers = Annotated[str | tuple[int, ...], BeforeValidator(_readable)]


def chosen(layers: Layers, encoder: Encoder) -> tuple[int, ...]:
    """Return the indices of the chosen layers in ascending order. Raise ConfigError where the encoder has no such
    layer."""
    depth = len(encoder.layers)
    if layers == "all":
        return tuple(range(depth))
    if isinstance(layers, str):
        end, count = _FEW.fullmatch(layers).groups()
        indices = range(int(count)) if end == "first" else range(depth - int(count), depth)
    else:
        indices = sorted(layers)
    if indices[0] < 0 or indices[-1] >= depth:
        raise ConfigError(f"method.layers: got {layers!r}, but this backbone has {depth} layers, 0 to {depth - 1}")
    return tuple(indices)
