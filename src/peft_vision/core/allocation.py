"""This module bounds what a recipe may allocate: forty bytes of it can ask for a thousand million prompts."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_VIEWS = (
    "slice",
    "view",
    "reshape",
    "expand",
    "as_strided",
    "unflatten",
    "_reshape_alias",
    "_unsafe_view",
    "sum_to_size",
)
_LENGTHS = ("end", "steps", "n")  # arguments of arange, linspace and eye


class TooLarge(Exception):
    """The error for an allocation beyond the allowed number of elements."""


class Bounded(TorchDispatchMode):
    """A context in which tensors made from sizes, such as zeros or repeats, have at most `numbers` elements together;
    it raises TooLarge before making the tensor that exceeds this. Results of computations, such as sums and products,
    are not counted, and neither are tensors of shapes alone."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._left = numbers

    def __torch_dispatch__(
        self, function: Any, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count the elements that an operation is about to allocate, then carry it out."""
        names = (argument.name for argument in function._schema.arguments)
        values = dict(zip(names, args, strict=False)) | dict(kwargs or {})
        if not _takes_no_memory(values):
            self._left -= _asked_for(function._schema.name.rpartition("::")[2], values)
        if self._left < 0:
            raise TooLarge
        return function(*args, **(kwargs or {}))


def _takes_no_memory(values: Mapping[str, Any]) -> bool:
    """Return whether an operation makes a tensor of a shape alone."""
    device, like = values.get("device"), values.get("self")
    return device.type == "meta" if device is not None else isinstance(like, Tensor) and like.is_meta


def _asked_for(name: str, values: Mapping[str, Any]) -> int:
    """Return the number of elements of the tensor that an operation makes from sizes alone; 0 for other operations."""
    if name in _VIEWS:
        return 0
    if "repeats" in values and "self" in values and isinstance(values["repeats"], list | tuple):
        return math.prod(values["repeats"]) * values["self"].numel()
    if isinstance(values.get("size"), list | tuple):
        return math.prod(values["size"])
    lengths = [abs(values[key]) for key in _LENGTHS if isinstance(values.get(key), int)]
    return math.ceil(math.prod([*lengths, abs(values.get("m", 1) or 1)])) if lengths else 0
