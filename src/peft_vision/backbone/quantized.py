"""This module holds the matrix of a frozen linear layer in 8 or 4 bit, and multiplies by it.

    8 bit   whole numbers from -127 to 127 and one scale a row, as LLM.int8() has weights (Dettmers et al., 2022,
            arXiv:2208.07339)
    4 bit   NormalFloat in blocks of 64 numbers, whose scales are in 8 bit (QLoRA: Dettmers et al., 2023,
            arXiv:2305.14314), by bitsandbytes

Each product makes the fp32 matrix of these numbers and drops it again, in the backward pass too. Activations are not
rounded, so that none of them is an outlier that needs a product of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.linear import Parted
from peft_vision.core import bitsandbytes
from peft_vision.core.config import ConfigError

Bits = Literal[4, 8]
_LARGEST = 127  # of 8 bit
_KIND = "nf4"
_BLOCK = 64  # numbers of 4 bit that share a scale
_BLOCK_OF_SCALES = 256


def check_bits(bits: Bits) -> None:
    """Raise ConfigError where the library for these bits is not installed."""
    if bits == 4 and not bitsandbytes.is_installed():
        raise ConfigError(f"backbone.frozen_bits: 4 takes bitsandbytes, which is not installed; {bitsandbytes.INSTALL}")


@torch.library.custom_op("peft_vision::unpack_4bit", mutates_args=())
def _unpack_4bit(
    numbers: Tensor, scales: Tensor, scales_of_scales: Tensor, mean_scale: Tensor, shape: list[int]
) -> Tensor:
    """Return the fp32 matrix of this shape. It is one operation to `torch.compile`, which cannot trace the library's
    own functions and would break each linear layer in two."""
    code, state = bitsandbytes.dynamic_code(numbers.device, signed=True), bitsandbytes.library().QuantState
    of_scales = state(scales_of_scales, code=code, blocksize=_BLOCK_OF_SCALES, dtype=torch.float32)
    kind = {"blocksize": _BLOCK, "quant_type": _KIND, "dtype": torch.float32}
    scaled = state(scales, torch.Size(shape), offset=mean_scale, state2=of_scales, **kind)
    return bitsandbytes.library().dequantize_4bit(numbers, scaled)


@_unpack_4bit.register_fake
def _shaped(numbers: Tensor, scales: Tensor, scales_of_scales: Tensor, mean_scale: Tensor, shape: list[int]) -> Tensor:
    return scales.new_empty(shape, dtype=torch.float32)


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix (O, I) in few bits. `tensors`: its `numbers`, and what scales them."""

    bits: Bits
    shape: torch.Size
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, weight: Tensor, bits: Bits) -> "PackedMatrix":
        """Round a matrix to these bits. Raise ConfigError where the library for that is not installed."""
        check_bits(bits)
        weight = weight.detach().float().contiguous()
        if bits == 8:
            scales = weight.abs().amax(dim=1, keepdim=True) / _LARGEST
            numbers = (weight / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
            return cls(bits, weight.shape, {"numbers": numbers, "scales": scales})
        kind = {"blocksize": _BLOCK, "quant_type": _KIND, "compress_statistics": True}
        numbers, state = bitsandbytes.library().quantize_4bit(weight, **kind)
        scales = {"scales": state.absmax, "scales_of_scales": state.state2.absmax, "mean_scale": state.offset}
        return cls(bits, weight.shape, {"numbers": numbers, **scales})

    def unpacked(self) -> Tensor:
        """Return the matrix (O, I) in fp32."""
        held = self.tensors
        if self.bits == 8:
            return held["numbers"] * held["scales"]
        scales = held["scales"], held["scales_of_scales"], held["mean_scale"]
        return _unpack_4bit(held["numbers"], *scales, [*self.shape])

    def moved(self, move: Callable[[Tensor], Tensor]) -> "PackedMatrix":
        """Return the matrix on the device that `move` brings tensors to; their types stay as they are."""
        return replace(self, tensors={name: held.to(move(held).device) for name, held in self.tensors.items()})

    @property
    def num_bytes(self) -> int:
        """Return the bytes of the numbers and of what scales them."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class QuantizedLinear(nn.Linear, Parted):
    """A linear layer whose `packed` matrix does not train; its bias may. `weight` is the fp32 matrix, made anew each
    time that it is read. No tensor of the packed matrix is a buffer: saved files hold none, and processes that share
    gradients do not send them to each other in each step."""

    packed: PackedMatrix

    @staticmethod
    def hold(linear: nn.Linear, packed: PackedMatrix) -> None:
        """Let a plain linear layer hold this matrix instead of its own. It stays the same object, which wrappers, the
        encoder and the family have already."""
        del linear._parameters["weight"]
        linear.__class__ = QuantizedLinear
        linear.packed = packed

    @property
    def weight(self) -> Tensor:
        """Return the matrix (O, I) in fp32."""
        return self.packed.unpacked()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        return self.part(tokens, slice(None))

    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """Map (..., I) to (..., rows), in the type of the tokens, or in that of autocast."""
        return _Product.apply(tokens, None if self.bias is None else self.bias[rows], self.packed, rows)

    def plain(self) -> nn.Linear:
        """Return a plain linear layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight, requires_grad=False)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return plain.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        super()._apply(fn, recurse)
        self.packed = self.packed.moved(fn)
        return self


class _Product(torch.autograd.Function):
    """The product with a packed matrix, which keeps no tensor for the backward pass."""

    @staticmethod
    def forward(ctx, inputs: Tensor, bias: Tensor | None, packed: PackedMatrix, rows: slice) -> Tensor:
        """Map (..., I) to (..., rows)."""
        ctx.packed, ctx.rows = packed, rows
        return F.linear(inputs, packed.unpacked()[rows].to(inputs.dtype), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of inputs and bias; None for the other arguments."""
        of_inputs, of_bias = ctx.needs_input_grad[:2]
        inputs = gradient @ ctx.packed.unpacked()[ctx.rows].to(gradient.dtype) if of_inputs else None
        return inputs, gradient.flatten(0, -2).sum(0) if of_bias else None, None, None
