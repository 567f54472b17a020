"""This module finds the modules of a backbone that drop something in training, and the options that make them."""

from collections.abc import Iterable

from timm.layers import DropPath
from torch import nn

_OPTIONS = {  # by the last part of the module's name; all other dropouts follow a projection
    "pos_drop": "backbone.architecture.pos_drop_rate",
    "head_drop": "backbone.architecture.drop_rate",
    "attn_drop": "backbone.architecture.attn_drop_rate",
}


def drops(module: nn.Module) -> bool:
    """Return whether `module` itself, not its children, drops anything in training."""
    if isinstance(module, DropPath):
        return bool(module.drop_prob)
    return isinstance(module, nn.Dropout) and module.p > 0


def dropping_options(vit: nn.Module, modules: Iterable[nn.Module]) -> list[str]:
    """Return the sorted names of the options that make the `modules` of `vit` drop."""
    modules = set(modules)
    return sorted(
        {_option(name, module) for name, module in vit.named_modules() if module in modules and drops(module)}
    )


def _option(name: str, module: nn.Module) -> str:
    if isinstance(module, DropPath):
        return "backbone.drop_path"
    return _OPTIONS.get(name.rpartition(".")[2], "backbone.architecture.proj_drop_rate")
