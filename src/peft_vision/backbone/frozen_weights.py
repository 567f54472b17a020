"""This module rounds the frozen weights of a backbone to 16 bit once, instead of in every step.

Autocast rounds the weight and the bias of a linear layer each time it is called, and forgets the result. Of a weight
that does not train it is the same every time, so rounding it before the first step changes no number.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.any import AnyTrunk
from peft_vision.backbone.linear import Mergeable

_KNOWN = ("peft_vision", "timm", "torch")  # packages whose modules read such weights as factors of products alone


@contextmanager
def rounded_once(encoder: Encoder, dtype: torch.dtype, *, biases_of_qkv: bool) -> Iterator[None]:
    """Hold the frozen weights and biases of the backbone's linear layers in `dtype` within the block, where autocast to
    `dtype` is on whenever the encoder is called; after it they are what they were. On a GPU the originals wait in the
    CPU's memory meanwhile. fp32 changes nothing. `biases_of_qkv`: whether those of the attention's projections, too,
    are added in products alone.
    """
    originals: list[tuple[nn.Parameter, torch.Tensor]] = []
    if dtype != torch.float32:
        for name, module in _multiplied(encoder):
            whole = biases_of_qkv or not name.endswith("qkv")
            originals += [(p, p.data) for p in (module.weight, module.bias if whole else None) if _is_frozen(p)]
    places = [original.device for _, original in originals]
    originals = [(p, original.to("cpu") if original.is_cuda else original) for p, original in originals]
    try:
        for parameter, _ in originals:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for (parameter, original), place in zip(originals, places, strict=True):
            parameter.data = original.to(place)


def _is_frozen(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and not parameter.requires_grad and parameter.dtype == torch.float32


def _multiplied(encoder: Encoder) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """Return the backbone's own linear layers and convolutions, by name, that are called or read as factors of products
    alone: none of a backbone whose forward is all timm's, or with a user's modules, which may read them otherwise."""
    if isinstance(encoder.trunk, AnyTrunk):
        return []
    named = dict(encoder.vit.named_modules())
    if any(type(module).__module__.partition(".")[0] not in _KNOWN for module in encoder.modules()):
        return []
    own = set(encoder.own_modules(range(len(encoder.layers))))
    found = []
    for name, module in named.items():
        if type(module) not in (nn.Linear, nn.Conv2d) or module not in own:
            continue
        parents = [named[name[:place]] for place, letter in enumerate(name) if letter == "."]
        if all(parent.multiplies_inner for parent in parents if isinstance(parent, Mergeable)):
            found.append((name, module))
    return found
