"""This module rounds the frozen weights of a backbone: to 16 bit once, instead of in every step, or to 8 or 4 bit.

Autocast rounds the weight and the bias of a linear layer each time it is called, and forgets the result. Of a weight
that does not train it is the same every time, so rounding it before the first step changes no number.

8 and 4 bit change what is computed, so they are an option of the backbone: what is attached to it, features that are
stored of it, and a run that is opened again see the rounded matrices. Only matrices of the blocks are rounded.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.any import AnyTrunk
from peft_vision.backbone.linear import Mergeable
from peft_vision.backbone.quantized import Bits, PackedMatrix, QuantizedLinear
from peft_vision.core.config import ConfigError

_KNOWN = ("peft_vision", "timm", "torch")  # packages whose modules read such weights as factors of products alone


@contextmanager
def rounded_once(
    encoder: Encoder, dtype: torch.dtype, *, biases_of_qkv: bool, but: Iterable[nn.Parameter] = ()
) -> Iterator[None]:
    """Hold the frozen weights and biases of the backbone's linear layers in `dtype` within the block, where autocast to
    `dtype` is on whenever the encoder is called; after it they are what they were. On a GPU the originals wait in the
    CPU's memory meanwhile. fp32 changes nothing. `biases_of_qkv`: whether those of the attention's projections, too,
    are added in products alone. `but`: parameters that stay as they are.
    """
    originals: list[tuple[nn.Parameter, torch.Tensor]] = []
    kept = set(but)
    if dtype != torch.float32:
        for name, module in _multiplied(encoder):
            whole = biases_of_qkv or not name.endswith("qkv")
            parameters = (module.weight, module.bias if whole else None)
            originals += [(p, p.data) for p in parameters if _is_frozen(p) and p not in kept]
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


@dataclass(frozen=True)
class FrozenBytes:
    """The bytes of the quantized matrices: their bits, how many matrices there are, the numbers in them, and the bytes
    that these take with what scales them."""

    bits: int
    matrices: int
    numbers: int
    num_bytes: int

    def __str__(self) -> str:
        now, before = self.num_bytes / 2**20, 4 * self.numbers / 2**20
        return f"{self.matrices} frozen matrices in {self.bits} bit, {now:.2f} MiB for {before:.2f} MiB in fp32"


def round_matrices(encoder: Encoder, bits: Bits) -> dict[str, PackedMatrix]:
    """Round the weights of the linear layers in the blocks to `bits`, before a method is attached, and return what they
    were rounded to, by path. The tensors that they had are not changed. Raise ConfigError where there are none."""
    packed: dict[str, PackedMatrix] = {}
    for path in dict.fromkeys(path for stage in encoder.stages for path in stage.matrices()):
        layer = encoder.part(path)
        if type(layer) is nn.Linear:
            packed[path] = PackedMatrix.of(layer.weight, bits)
            layer.weight.data = packed[path].unpacked().to(layer.weight.dtype)
    if not packed:
        raise ConfigError(
            f"backbone.frozen_bits: the blocks of {encoder.name} have no linear layers to hold in {bits} bit"
        )
    return packed


def hold_packed(encoder: Encoder, packed: Mapping[str, PackedMatrix]) -> None:
    """Let the linear layers hold the matrices that `round_matrices` returned, once the method is attached. Raise
    ConfigError where the method trains any of them."""
    layers = {path: encoder.places[path] for path in packed}
    for path, layer in layers.items():
        if layer.weight.requires_grad:
            bits = packed[path].bits
            raise ConfigError(
                f"backbone.frozen_bits: {bits} is for matrices that do not train, and the method trains {path}; set "
                "frozen_bits=null, or choose a method such as lora"
            )
    dropped = {layer.weight for layer in layers.values()}
    encoder.backbone_parameters = [kept for kept in encoder.backbone_parameters if kept not in dropped]
    for path, layer in layers.items():
        QuantizedLinear.hold(layer, packed[path])


def frozen_bytes(encoder: Encoder) -> FrozenBytes | None:
    """Return what the quantized matrices take; None where there are none."""
    held = [module.packed for module in encoder.modules() if isinstance(module, QuantizedLinear)]
    if not held:
        return None
    numbers, num_bytes = (sum(each) for each in zip(*((p.shape.numel(), p.num_bytes) for p in held), strict=True))
    return FrozenBytes(held[0].bits, len(held), numbers, num_bytes)
