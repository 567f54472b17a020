"""This module provides the ports of a layer, the places where a method may put modules.

A layer is one of timm's blocks under the same parameter names. All ports are empty at first and add nothing to its
state. `entrance` maps what enters the layer before anything else; `context` returns further tokens to attend to,
(B or 1, P, D), for a batch size B; each of `beside_attention` and `beside_mlp` maps what enters the branch and the same
normed to a term added to the branch; each of `behind` maps what leaves the layer to a term added to it. Each branch
passes through a module of its own, `ls1` or `ls2`, before it is added: timm's layer scale, or the identity.
"""

from dataclasses import dataclass

from torch import nn

from peft_vision.core.config import ConfigError

_LISTS = ("beside_attention", "beside_mlp", "behind")
_SINGLE = ("entrance", "context")


@dataclass(frozen=True)
class Branch:
    """One branch of a layer. `beside`: modules parallel to it; `end`: name of the layer's module that its output passes
    last; `drop_path`: the backbone's stochastic depth of this branch."""

    beside: nn.ModuleList
    end: str
    drop_path: nn.Module


class Ports(nn.Module):
    """A layer that takes over the children and the own parameters of timm's `block`, and has ports. A family that has
    no attention, or tokens on a grid, derives its layer from this one and computes the ports that it has."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, parameter in block.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, child in block.named_children():
            self.add_module(name, child)
        for name in ("ls1", "ls2"):
            if not hasattr(self, name):
                self.add_module(name, nn.Identity())
        self.entrance: nn.Module | None = None
        self.context: nn.Module | None = None
        self.beside_attention = nn.ModuleList()
        self.beside_mlp = nn.ModuleList()
        self.behind = nn.ModuleList()

    @property
    def branches(self) -> dict[str, Branch]:
        """Return the layer's branches by name, attention first; a layer without attention has only its mlp."""
        return {
            "attention": Branch(self.beside_attention, "ls1", self.drop_path1),
            "mlp": Branch(self.beside_mlp, "ls2", self.drop_path2),
        }

    def __setattr__(self, name: str, value: object) -> None:
        """Raise ConfigError for an assignment that would discard what another method put in the same place, or put a
        module there that the layer cannot compute with."""
        there = self.__dict__.get("_modules", {}).get(name)
        if name in _LISTS and there is not None:
            raise ConfigError(f"method: layer.{name} is a list that several methods add to; append to it")
        if name in _SINGLE and None not in (there, value) and there not in value.modules():
            raise ConfigError(
                f"method: two of its parts fill layer.{name}, which holds one module; the second must wrap it"
            )
        if name == "attn" and there is not None and not hasattr(value, "proj"):
            raise ConfigError("method: layer.attn is no place for a wrapper; wrap layer.attn.qkv or layer.attn.proj")
        super().__setattr__(name, value)
