"""This module provides a learned scale and shift of every feature, the building block of SSF (see `ssf.py`)."""

import torch
from timm.layers import LayerNorm2d, RmsNorm2d, SimpleNorm2d
from torch import Tensor, nn
from torch.func import functional_call

from peft_vision.backbone.linear import Pointwise, Wrapper, innermost

_IMAGE_NORMS = (LayerNorm2d, RmsNorm2d, SimpleNorm2d)
_STD = 0.02  # standard deviation of the initial scales around one, and of the initial shifts around zero


class ScaleShift(Wrapper):
    """A wrapper around a linear layer, a norm or a convolution of `width` outputs: scale * inner(x) + shift."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__(inner)
        self.scale = nn.Parameter(torch.empty(width).normal_(1, _STD))
        self.shift = nn.Parameter(torch.empty(width).normal_(0, _STD))

    @property
    def multiplies_inner(self) -> bool:
        return True

    def after(self, inputs: Tensor, outputs: Tensor, rows: slice) -> Tensor:
        """Return scale * outputs + shift, in the shape of the outputs; those of convolutions and of norms of images are
        scaled per channel."""
        scale, shift = self.scale[rows], self.shift[rows]
        if _channels_first(self.inner):
            scale, shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
        return outputs * scale + shift

    def merged(self) -> nn.Module:
        """Return `inner` itself scaled in place, and the bias shifted; an RMS norm has none, so the
        shift follows it."""
        plain = self.inner
        scale, shift = self.scale.detach().double(), self.shift.detach().double()
        weight = plain.weight.detach().double()
        bias = getattr(plain, "bias", None)
        bias = 0 if bias is None else bias.detach().double()
        by_output = scale.view(-1, *[1] * (weight.ndim - 1))
        plain.weight = nn.Parameter((weight * by_output).to(plain.weight), requires_grad=False)
        total = nn.Parameter((scale * bias + shift).to(plain.weight), requires_grad=False)
        if not hasattr(plain, "bias"):  # an RMS norm
            return Shifted(plain, total)
        plain.bias = total
        return plain


class ScaledNorm(ScaleShift):
    """A wrapper around a norm of any layout with a weight and a bias, which timm may join with an activation: what the
    norm computes before it is scaled and shifted, as with the weight and bias that merging leaves."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of `inner` with weight scale * weight and bias scale * bias + shift."""
        weight, bias = self.scale * self.inner.weight, self.scale * self.inner.bias + self.shift
        return functional_call(self.inner, {"weight": weight, "bias": bias}, (inputs,))


def _channels_first(module: nn.Module) -> bool:
    """Return whether the second axis of the outputs of `module`, wrapped or not, are the channels."""
    plain = innermost(module)
    return isinstance(plain, (nn.Conv2d, *_IMAGE_NORMS)) and not isinstance(plain, Pointwise)


class Shifted(nn.Module):
    """A module without a bias, and the bias that it needs, which no model of timm has at this place."""

    def __init__(self, norm: nn.Module, bias: nn.Parameter) -> None:
        super().__init__()
        self.norm = norm
        self.bias = bias

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., D), or (B, D, H, W) for a norm of images, to the same shape."""
        bias = self.bias.view(-1, 1, 1) if _channels_first(self.norm) else self.bias
        return self.norm(tokens) + bias
