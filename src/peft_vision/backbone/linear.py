"""This module wraps linear layers for methods that change them, and computes a part of their outputs.

The rows of a weight matrix are output features, so a range of rows is, say, the keys of a fused projection.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

ALL = slice(None)
_ASKED = ("weight", "kernel_size", "stride", "padding")


class Around(nn.Module):
    """A module around `inner` that computes `after(x, inner(before(x)))`. Where both say all that it does, images of
    several adapters share the product of `inner` (see `mixing/`)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def before(self, inputs: Tensor) -> Tensor:
        """Return what `inner` reads, by default the inputs themselves."""
        return inputs

    def after(self, inputs: Tensor, outputs: Tensor, rows: slice) -> Tensor:
        """Return these `rows` of the output features, given those of `inner`, which nothing else reads afterwards; by
        default these."""
        return outputs

    @property
    def divides(self) -> bool:
        """True if no class that redefines the forward pass leaves out what `before` or `after` would then be."""
        order = type(self).__mro__
        halves, whole = (
            next(number for number, cls in enumerate(order) if not names.isdisjoint(vars(cls)))
            for names in ({"before", "after"}, {"part", "forward"})
        )
        return halves <= whole

    @property
    def batches(self) -> bool:
        """True if the parameters of several adapters, one of each for each image, may be computed with at once; False
        where that would take the memory of a weight for each image."""
        return True


class Mergeable(Around, ABC):
    """A wrapper around `inner` that a plain module can replace without changing what is computed in evaluation."""

    @property
    def multiplies_inner(self) -> bool:
        """True if the forward pass calls `inner`, or reads its weight and bias in products alone, so that autocast
        rounds them; by default False."""
        return False

    @abstractmethod
    def merged(self) -> nn.Module:
        """Return a plain module of the kind of `inner`, which must itself be plain by then; it is computed in float64
        and rounded once."""


class Parted(nn.Module, ABC):
    """A module that computes a range of its output features without the others."""

    @abstractmethod
    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """Return only `rows` of the output features, so that nothing else need be computed."""


class Pointwise(nn.Conv2d):
    """A 1x1 convolution under the same names and with the same parameters, as the linear layer over the last axis that
    it is."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        channels = (convolution.in_channels, convolution.out_channels)
        super().__init__(*channels, 1, bias=convolution.bias is not None, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.train(convolution.training)

    @property
    def in_features(self) -> int:
        return self.in_channels

    @property
    def out_features(self) -> int:
        return self.out_channels

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(tokens, self.weight.flatten(1), self.bias)


LINEAR = (nn.Linear, Pointwise)
"""The classes of plain modules that are a matrix, `weight.flatten(1)`, and perhaps a bias."""


class Wrapper(Mergeable, Parted):
    """A module around a linear layer, or around another wrapper of one, that changes what it computes. What some of
    timm's models ask of the plain module, such as its kernel's size or its weight's device, it answers for it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name) if name in _ASKED else super().__getattr__(name)

    @property
    def in_features(self) -> int:
        return self.inner.in_features

    @property
    def out_features(self) -> int:
        return self.inner.out_features

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return self.part(tokens, ALL)

    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """Return only `rows` of the output features, so that nothing else need be computed."""
        return self.after(tokens, part(self.inner, self.before(tokens), rows), rows)


def part(linear: nn.Module, tokens: Tensor, rows: slice) -> Tensor:
    """Return `rows` of the output features of a linear layer, of a wrapper, or of any module that replaces one."""
    if rows == ALL:
        return linear(tokens)
    if type(linear) in LINEAR:
        return F.linear(tokens, linear.weight[rows].flatten(1), None if linear.bias is None else linear.bias[rows])
    if isinstance(linear, Parted):
        return linear.part(tokens, rows)
    return linear(tokens)[..., rows]  # an unknown module must be called, not bypassed


def innermost(module: nn.Module) -> nn.Module:
    """Return the plain module within all mergeable wrappers around it."""
    return innermost(module.inner) if isinstance(module, Mergeable) else module


def linear(weight: Tensor, bias: Tensor | None, like: nn.Linear | Pointwise) -> nn.Linear | Pointwise:
    """Return a plain linear layer with this matrix and bias, of the kind and type and on the device of `like`, that
    does not train."""
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    if isinstance(like, Pointwise):
        plain = Pointwise(nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta"))
        weight = weight[:, :, None, None]
    plain.weight = nn.Parameter(weight.detach().to(like.weight), requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().to(like.weight), requires_grad=False)
    return plain.train(like.training)
