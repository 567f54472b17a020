"""This module describes one stage of a backbone (a block, or what a family divides itself into) by what methods need.

All paths are names of modules in timm's model, such as blocks.0.attn.qkv. Rows of a weight matrix are its outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from peft_vision.core.config import ConfigError

Need = Literal["sites", "branches", "prompts", "contexts", "taps", "grid", "grids"]
NEEDS: Mapping[Need, str] = {
    "sites": "linear layers by their standard names: q, k, v, qkv, proj, fc1, fc2",
    "branches": "places for modules after, or parallel to, attention and MLP",
    "prompts": "tokens that may be appended to those of the image",
    "contexts": "one context a layer, which a query can attend to",
    "taps": "intermediate values that are tokens",
    "grid": "features at each place of the image",
    "grids": "features at each place of the image, of several layers",
}


@dataclass(frozen=True)
class Site:
    """A weight matrix, or a range of its rows. `rows`: first row and the one after the last, both given."""

    path: str
    rows: slice

    @property
    def num_rows(self) -> int:
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class Tap:
    """An intermediate value that Head2Toe averages over the tokens: the first input of a module, or its output.
    `width`: number of channels, which are the last axis, or the second one with `channels_first`."""

    path: str
    side: Literal["input", "output"]
    width: int
    channels_first: bool = False


@dataclass(frozen=True)
class Stage:
    """The description of one stage.

    `module`: timm's module, or the layer with ports in its place. `width`: channels of its tokens, behind what is
    `before` it; `grid`: rows and columns of patches, None where there is none; `num_prefix`: number of tokens before
    the patches. `before`: modules that are not its own and that tokens pass on their way to it, such as the merging of
    patches.
    `sites`: the weight matrices of each standard name (several where the backbone has them apart, as SwiGLU has fc1),
    in the order of computation. `operations`: paths of the norms and linear layers, in the order of computation.
    `taps`: None where intermediate values are no tokens. `unnamed`: paths of the linear layers and 1x1 convolutions
    that have no standard name, in the order of computation.
    """

    module: nn.Module
    width: int
    grid: tuple[int, int] | None
    num_prefix: int
    sites: Mapping[str, tuple[Site, ...]]
    operations: tuple[str, ...]
    taps: tuple[Tap, ...] | None
    before: tuple[nn.Module, ...] = ()
    unnamed: tuple[str, ...] = ()

    def matrices(self, *names: str) -> list[str]:
        """Return the paths of the weight matrices of the standard `names`, each once; without names, of all,
        and those that have no name."""
        found = [site.path for name in names or self.sites for site in self.sites.get(name, ())]
        return list(dict.fromkeys([*found, *(() if names else self.unnamed)]))


def site(model: nn.Module, path: str, *, first: int = 0, of: int = 1) -> Site:
    """Return the rows of part `first` of `of` equal parts of the matrix at `path`; by default all of its rows."""
    size = model.get_submodule(path).out_features // of
    return Site(path, slice(first * size, (first + 1) * size))


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
