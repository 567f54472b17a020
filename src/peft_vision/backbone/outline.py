"""This module builds a timm model from its name and arguments, and says of its class and shape what is known without
weights."""

import inspect
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from peft_vision.backbone.families.match import refuse_unusual
from peft_vision.backbone.families.shapes import is_headless
from peft_vision.backbone.source import resolved
from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line


@dataclass(frozen=True)
class Outline:
    """The facts of a model's class and shape: the arguments that the class `takes`, the number of `parameters` without
    a classifier and of `channels` of an image, and the side of a patch in pixels, or None where there are no patches.
    `refusal`: why methods cannot work on it, or None. `headless`: whether it is an encoder without a head, which is
    built with global_pool="avg"."""

    cls: str
    takes: tuple[str, ...]
    parameters: int
    channels: int
    patch: int | None
    refusal: str | None
    headless: bool

    def require_family(self) -> None:
        """Raise ConfigError if methods cannot work on this model."""
        if self.refusal is not None:
            raise ConfigError(self.refusal)


_OF_VALUES = {
    getattr(Tensor, name) for name in ("add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_")
}
"""The in-place functions by which models initialise their weights. None of them changes a shape."""


class _WithoutValues(TorchFunctionMode):
    """A mode in which these functions leave tensors of shapes alone, which have no values, as they are."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if function in _OF_VALUES and args[0].is_meta else function(*args, **(kwargs or {}))


@contextmanager
def shapes_alone() -> Iterator[None]:
    """In the block tensors have shapes and no values, and nothing initialises them, which torch would do in Python and
    which takes most of the time in which a model is built."""
    with torch.device("meta"), _WithoutValues():
        yield


@lru_cache(maxsize=256)
def outline_of(name: str, arguments: str) -> Outline:
    """Return the outline of a model with these arguments of timm, in Python's notation. A model of shapes alone
    suffices, which takes no memory and no download. ConfigError if timm cannot build it."""
    with shapes_alone():
        vit = created(name, literal_eval(arguments))
    refusal = None
    try:
        refuse_unusual(vit)
    except ConfigError as error:
        refusal = str(error)
    patch = getattr(getattr(vit, "patch_embed", None), "patch_size", None)
    return Outline(
        cls=type(vit).__name__,
        takes=tuple(dict.fromkeys(key for cls in type(vit).__mro__ for key in _parameters(cls))),
        parameters=sum(parameter.numel() for parameter in vit.parameters()),
        channels=getattr(vit, "in_chans", None) or vit.pretrained_cfg["input_size"][0],
        patch=patch[0] if isinstance(patch, tuple) else patch,
        refusal=refusal,
        headless=is_headless(vit),
    )


def _parameters(cls: type) -> list[str]:
    """Return the keywords that the constructor of `cls` itself names."""
    if "__init__" not in vars(cls) or cls in (object, nn.Module):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(cls.__init__).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in named and parameter.name != "self"]


def created(name: str, arguments: Mapping[str, Any], **further: Any) -> nn.Module:
    """Return timm's model `name`, without a classifier, built with these arguments. ConfigError if timm cannot."""
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, **resolved(arguments), **further)
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise ConfigError(
            f"backbone: timm cannot build {name} with {given}: {one_line(str(error) or type(error).__name__)}"
        ) from error
    size = arguments.get("img_size")
    if isinstance(size, tuple):  # many classes keep no other note of the size that they were made for
        record = model.pretrained_cfg
        model.pretrained_cfg = {**record, "input_size": (record["input_size"][0], *size)}
    return model
