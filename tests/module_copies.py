"""Deep copies of modules in half the time.

Most tests adapt a small backbone, all modules of which `adapt` and `load` copy. A module holds a dozen dictionaries,
most of them empty, and Python asks each of them for the state by which it would be pickled.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from torch import nn

ITSELF = frozenset({type(None), bool, int, float, str})
"""Types of what is its own copy."""


@cache
def says_its_state(kind: type[nn.Module]) -> bool:
    names = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    return any(getattr(kind, name) is not getattr(nn.Module, name) for name in names)


def quickly(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy; by Python's own way of one whose class says what its state is."""
    kind = type(module)
    if says_its_state(kind):
        return copy._reconstruct(module, memo, *module.__reduce_ex__(4))
    twin = memo[id(module)] = kind.__new__(kind)
    twin.__dict__.update(
        {name: value if type(value) in ITSELF else _copied(value, memo) for name, value in vars(module).items()}
    )
    return twin


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) not in (dict, OrderedDict) or id(value) in memo:
        return copy.deepcopy(value, memo)
    twin = memo[id(value)] = type(value)()
    for key, entry in value.items():
        twin[copy.deepcopy(key, memo)] = copy.deepcopy(entry, memo)
    return twin


@contextmanager
def copied_quickly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__deepcopy__", quickly, raising=False)
        yield


@contextmanager
def copied_slowly() -> Iterator[None]:
    """In the block modules are copied as without this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(nn.Module, "__deepcopy__", raising=False)
        yield
