"""Linear layers that a method changes: what wraps one, and a part of what it computes.

The rows of a weight matrix are output features, so a range of rows is, say, the keys of a fused projection.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

ALL = slice(None)


class Mergeable(nn.Module, ABC):
    """A wrapper around `inner` that a plain module can replace without changing what is computed in evaluation."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @abstractmethod
    def merged(self) -> nn.Module:
        """A new module of the kind of `inner`, which is plain by then; computed in float64, rounded once."""


class Wrapper(Mergeable):
    """Around a linear layer, or around another wrapper of one."""

    @property
    def in_features(self) -> int:
        return self.inner.in_features

    @property
    def out_features(self) -> int:
        return self.inner.out_features

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return self.part(tokens, ALL)

    @abstractmethod
    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """`rows` of the output features alone, so that nothing else need be computed."""


def part(linear: nn.Module, tokens: Tensor, rows: slice) -> Tensor:
    """`rows` of the output features of a linear layer, of a wrapper, or of anything that stands in its place."""
    if rows == ALL:
        return linear(tokens)
    if type(linear) is nn.Linear:
        return F.linear(tokens, linear.weight[rows], None if linear.bias is None else linear.bias[rows])
    if isinstance(linear, Wrapper):
        return linear.part(tokens, rows)
    return linear(tokens)[..., rows]  # whatever it is, it must not be bypassed


def linear(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    """A plain layer of this weight and bias, in the type and on the device of `like`."""
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.detach().to(like.weight), requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().to(like.weight), requires_grad=False)
    return plain.train(like.training)
