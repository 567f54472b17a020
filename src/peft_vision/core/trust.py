"""This module decides which modules may be imported because a file names them.

An adapter, a result or a config names classes, and to import a module is to run it. So a file may name only classes of
this package, of a module that is imported already, and of a package that uses this one, which is known from its source
before a line of it runs: such a package was written to be used here, and is on the path of whoever runs it.

`Bounded` limits what a recipe may allocate: forty bytes of it can ask for a thousand million prompts.
"""

import importlib.util
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from peft_vision.core.config import ConfigError, import_path

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_USES_US = re.compile(r"^\s*(from|import)\s+peft_vision\b", re.MULTILINE)
_LONGEST = 300  # characters of a dotted path
_FILES = 500  # of a package that are searched
_CHARACTERS = 1_000_000  # of each file that are searched


def check_targets(node: Any, where: str) -> None:
    """Raise ConfigError for the first `_target_`, or function of an `augment`, within `node`, at any depth, that a file
    may not name."""
    for path, target in _targets(node, where):
        if isinstance(target, str) and import_path(target, path) is not None:
            continue
        if not isinstance(target, str) or len(target) > _LONGEST or not _DOTTED.fullmatch(target):
            raise ConfigError(f"{path}: got {str(target)[:60]!r}, should be a dotted path to a class")
        module = target.rpartition(".")[0]
        top = module.partition(".")[0]
        if top != "peft_vision" and module not in sys.modules and _uses_us(top) is False:
            raise ConfigError(
                f"{path}: {target!r} is not imported for a file, because {top} does not use peft_vision; "
                "import it first where it is meant"
            )


def _targets(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every `_target_`, and every `augment` that leads to a function, with the keys that lead to it."""
    waiting = [(where, node)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping):
            if "_target_" in value:
                yield f"{path}._target_", value["_target_"]
            if "augment" in value and "." in str(value["augment"]):
                yield f"{path}.augment", value["augment"]
            waiting.extend((f"{path}.{key}", inner) for key, inner in value.items() if key != "_target_")
        elif isinstance(value, list | tuple):
            waiting.extend((f"{path}.{number}", inner) for number, inner in enumerate(value))


@lru_cache(maxsize=256)
def _uses_us(top: str) -> bool | None:
    """Return whether a module or package imports this one in its source, of which at most _FILES files are searched;
    None where no such module is found."""
    try:
        spec = importlib.util.find_spec(top)  # for a name without a dot this imports nothing
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    files = (file for folder in folders for file in folder.rglob("*.py"))
    if not folders:
        files = iter([Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else [])
    return any(_USES_US.search(_text(file)) for file in islice(files, _FILES))


def _text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(_CHARACTERS)
    except OSError:
        return ""


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
