"""This module tells by their keys which overrides of a sweep set the same value."""

from collections.abc import Iterable
from dataclasses import replace

from hydra.core.override_parser.types import Override, OverrideType

_ADDS = (OverrideType.ADD, OverrideType.FORCE_ADD)


def key_of(override: Override) -> str:
    """Return the key without the `+` or `++` that lets it be a new one."""
    return override.get_key_element().lstrip("+")


def last_of_each(overrides: Iterable[Override]) -> list[Override]:
    """Return the last override of each key in the place of its first, as a new key if an earlier one is."""
    last: dict[str, Override] = {}
    for override in overrides:
        key = key_of(override)
        is_new = key in last and last[key].type in _ADDS and override.type is OverrideType.CHANGE
        last[key] = replace(override, type=last[key].type) if is_new else override
    return list(last.values())
