"""Every value within nested lists and dictionaries, to replace one at a time."""

import copy
from typing import Any

Path = tuple[Any, ...]


def paths(value: Any) -> list[Path]:
    """Return the keys that lead to each value within, and `()`, which leads to the whole."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, entry in inner for rest in paths(entry))]


def replaced(value: Any, path: Path, by: Any) -> Any:
    """Return a copy in which `by` stands at `path`."""
    if not path:
        return by
    value = copy.copy(value)
    value[path[0]] = replaced(value[path[0]], path[1:], by)
    return value
