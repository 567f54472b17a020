"""This module temporarily replaces wrapped layers by plain ones, which compute either the same or what the backbone did
before it was wrapped. Quantized layers are replaced by plain ones with the matrices that they compute with."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Mergeable, innermost
from peft_vision.backbone.quantized import QuantizedLinear


@contextmanager
def merged(encoder: Encoder) -> Iterator[None]:
    """Replace every mergeable wrapper by its merged layer within the block; afterwards the encoder is bit for bit as
    before. Modules that cannot be merged stay; `unmergeable` names them."""
    with _replaced(encoder, _plain):
        yield


@contextmanager
def unwrapped(encoder: Encoder) -> Iterator[None]:
    """Replace every mergeable wrapper by the module it wraps within the block, as if it had not been added; afterwards
    the encoder is as before."""
    with _replaced(encoder, innermost):
        yield


@contextmanager
def _replaced(encoder: Encoder, other: Callable[[Mergeable], nn.Module]) -> Iterator[None]:
    """Replace the outermost mergeable wrappers by `other(wrapper)`, and then all quantized layers, within the block."""
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
        for name, layer in list(encoder.vit.named_modules()):
            if isinstance(layer, QuantizedLinear):
                undo.callback(encoder.vit.set_submodule, name, layer)
                encoder.vit.set_submodule(name, layer.plain())
        yield


def plain_names(encoder: Encoder) -> set[str]:
    """Return the names of the backbone's tensors without mergeable wrappers. The merged backbone has more where a layer
    has no bias and what is merged into it needs one."""
    with unwrapped(encoder):
        return set(encoder.vit.state_dict())


def unmergeable(encoder: Encoder) -> list[str]:
    """Return the names of modules added to the backbone that are not mergeable wrappers, and of those that such a
    wrapper wraps."""
    added = encoder.added()
    wrappers = {name: module for name, module in added.items() if isinstance(module, Mergeable)}
    own_parts = tuple(f"{name}." for name in wrappers)
    strangers = [name for name in added if name not in wrappers and not name.startswith(own_parts)]
    wrapped = {f"{name}.inner" for name in wrappers}
    strangers += [name for name in added if name in wrapped and name not in wrappers]
    if encoder.border is not None:
        strangers.append("border")
    return [name for name in strangers if not name.startswith(tuple(f"{other}." for other in strangers))]


def _plain(module: Mergeable) -> nn.Module:
    """Return a plain module with this wrapper and all wrappers inside it merged, innermost first."""
    module = copy.copy(module)  # shallow, so that the original wrapper keeps its `inner`
    module._modules = dict(module._modules)
    module.inner = _plain(module.inner) if isinstance(module.inner, Mergeable) else _copied(module.inner)
    return module.merged()


def _copied(module: nn.Module) -> nn.Module:
    return module.plain() if isinstance(module, QuantizedLinear) else copy.deepcopy(module)
