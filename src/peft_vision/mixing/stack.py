"""This module computes with modules of several adapters at once: their parameters are stacked, and each image is
computed with those of its own adapter, by torch's vmap.

Modules are of one kind where they differ in nothing but the values of their parameters; what a kind has many of costs
as many calls as what it has one of. No module is asked for anything: that it has the same class, options and shapes is
read off it, and a value whose meaning is not known counts as different.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from peft_vision.backbone.linear import Around
from peft_vision.mixing.route import ImageSpan

_OF_TORCH = frozenset(vars(nn.Module()))
_PLAIN = (int, float, str, bool, bytes, type(None), torch.dtype, torch.Size)


def signature(module: nn.Module) -> Hashable:
    """Return what two modules must share to be computed at once: class, options, and names and shapes of tensors, of
    themselves and of all inner modules but the `inner` of a wrapper, which is the backbone's."""
    options = [(name, _frozen(value)) for name, value in vars(module).items() if name not in _OF_TORCH]
    tensors = [
        (name, tensor if tensor is None else (tuple(tensor.shape), tensor.dtype))
        for held in (module._parameters, module._buffers)
        for name, tensor in held.items()
    ]
    inner = [(name, signature(child)) for name, child in own_children(module)]
    return type(module), tuple(sorted(options)), tuple(tensors), tuple(inner)


def own_children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the children of a module by name, without the `inner` of a wrapper."""
    around = isinstance(module, Around)
    return [(name, child) for name, child in module.named_children() if not (around and name == "inner")]


def _frozen(value: Any) -> Hashable:
    """Return a value that is equal where two options surely mean the same."""
    if isinstance(value, _PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, slice):
        return "slice", repr(value)
    if isinstance(value, tuple | list):
        return type(value).__name__, tuple(map(_frozen, value))
    if isinstance(value, Mapping):
        return "mapping", tuple((repr(key), _frozen(item)) for key, item in value.items())
    if isinstance(value, nn.Module) and not value.state_dict():
        return "module", repr(signature(value))
    return "one", id(value)


class Stack:
    """Modules of one kind, one of each adapter, whose own tensors become rows of stacks, so that nothing is held twice.
    `shared`: the addresses of tensors that all of them share, the backbone's; None: all that a wrapper has as `inner`.
    """

    def __init__(self, modules: Sequence[nn.Module], shared: Collection[int] | None = None) -> None:
        self.modules = modules
        self.stacks: dict[str, Tensor] = {}
        if len(modules) < 2:
            return
        named = [own_tensors(module, shared) for module in modules]
        for name in named[0]:
            tensors = [own[name] for own in named]
            self.stacks[f"module.{name}"] = stacked = _stacked([tensor.detach() for tensor in tensors])
            for tensor, row in zip(tensors, stacked, strict=True):
                tensor.data = row

    def let_train(self) -> None:
        """Let the gradients of the parameters that train be rows of the stacks' gradients, so that optimizers of the
        modules' own parameters step them."""
        for name, stacked in self.stacks.items():
            of_modules = [dict(module.named_parameters()) for module in self.modules]
            tensors = [named.get(name.partition(".")[2]) for named in of_modules]
            if all(tensor is not None and tensor.requires_grad for tensor in tensors):
                gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
                stacked.requires_grad_().grad = _stacked(gradients)
                for tensor, row in zip(tensors, stacked.grad, strict=True):
                    tensor.grad = row

    def call(self, function: Callable[..., Tensor], span: ImageSpan, *rows: Tensor) -> Tensor:
        """Return `function(module, *rows)`, where the rows are those of a span and `module` is each image's own."""
        if span.only is not None:
            return function(self.modules[span.only], *rows)
        parts = len(span) if span.even is None else len(span.even)
        whole = span.even == tuple(range(len(self.modules)))
        members = span.members if span.even is None else list(span.even)
        own = {name: stacked if whole else stacked[members] for name, stacked in self.stacks.items()}
        called = _Called(self.modules[0], function)
        each = [part.unflatten(0, (parts, len(part) // parts)) for part in rows]
        return vmap(lambda tensors, *parts: functional_call(called, tensors, parts))(own, *each).flatten(0, 1)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors (...) as rows of one, (n, ...), in the memory that they lie in where they are such rows already:
    those of modules that share them with others are."""
    first, size = tensors[0], tensors[0].nbytes
    storage = first.untyped_storage().data_ptr()
    rows = all(
        tensor.untyped_storage().data_ptr() == storage and tensor.data_ptr() == first.data_ptr() + number * size
        for number, tensor in enumerate(tensors)
    )
    if rows and size and all(tensor.is_contiguous() for tensor in tensors):
        return first.as_strided((len(tensors), *first.shape), (first.numel(), *first.stride()))
    return torch.stack(list(tensors))


def own_tensors(module: nn.Module, shared: Collection[int] | None) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module that are not shared, by name."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if shared is not None:
        return {name: tensor for name, tensor in named.items() if tensor.data_ptr() not in shared}
    around = isinstance(module, Around)
    return {name: tensor for name, tensor in named.items() if not (around and name.startswith("inner."))}


class _Called(nn.Module):
    """A module whose forward pass is a function of another module, so that its tensors can be replaced for one call."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *rows: Tensor) -> Tensor:
        return self.function(self.module, *rows)
