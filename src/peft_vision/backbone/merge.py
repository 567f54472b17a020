"""Wrapped layers replaced by plain ones, that compute the same or what they did before, for as long as somebody needs a
plain backbone."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Mergeable


@contextmanager
def merged(encoder: Encoder) -> Iterator[None]:
    """Within the block every wrapper that can be merged is; afterwards all is bit for bit as it was. What cannot be
    merged stays; `unmergeable` names it."""
    with _replaced(encoder, _plain):
        yield


@contextmanager
def unwrapped(encoder: Encoder) -> Iterator[None]:
    """Within the block every wrapper that can be merged is replaced by what it wraps, as if it had not been added;
    afterwards all is as it was."""
    with _replaced(encoder, _innermost):
        yield


@contextmanager
def _replaced(encoder: Encoder, other: Callable[[Mergeable], nn.Module]) -> Iterator[None]:
    """The outermost wrappers of those that can be merged."""
    strangers = unmergeable(encoder)
    wrappers = [
        name
        for name, module in encoder.added().items()
        if isinstance(module, Mergeable) and not any(f"{stranger}.".startswith(f"{name}.") for stranger in strangers)
    ]
    outermost = [name for name in wrappers if not name.startswith(tuple(f"{outer}." for outer in wrappers))]
    with ExitStack() as undo:
        for name in outermost:
            wrapper = encoder.vit.get_submodule(name)
            undo.callback(encoder.vit.set_submodule, name, wrapper)
            encoder.vit.set_submodule(name, other(wrapper))
        yield


def plain_names(encoder: Encoder) -> set[str]:
    """Return the names of the backbone's tensors without the wrappers that can be merged. The merged backbone has more
    where a layer has no bias and what is merged into it needs one."""
    with unwrapped(encoder):
        return set(encoder.vit.state_dict())


def unmergeable(encoder: Encoder) -> list[str]:
    """The names of modules that were added to the backbone and are no wrapper, or wrap something that is none."""
    added = encoder.added()
    wrappers = {name: module for name, module in added.items() if isinstance(module, Mergeable)}
    own_parts = tuple(f"{name}." for name in wrappers)
    strangers = [name for name in added if name not in wrappers and not name.startswith(own_parts)]
    wrapped = {f"{name}.inner" for name in wrappers}
    strangers += [name for name in added if name in wrapped and name not in wrappers]
    return [name for name in strangers if not name.startswith(tuple(f"{other}." for other in strangers))]


def _plain(module: Mergeable) -> nn.Module:
    """From the innermost out."""
    module = copy.copy(module)  # shallow: the wrapper itself keeps its inner one
    module._modules = dict(module._modules)
    module.inner = _plain(module.inner) if isinstance(module.inner, Mergeable) else copy.deepcopy(module.inner)
    return module.merged()


def _innermost(module: nn.Module) -> nn.Module:
    return _innermost(module.inner) if isinstance(module, Mergeable) else module
