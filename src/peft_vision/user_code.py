"""Digests of the source of a user's own components, so that a run of an edited formula is another run.

A component's source is the module that defines its class, and what this module imports, directly or not, from its own
package or, where it belongs to none, from the files beside it.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

CODE = "user_code"
"""The key of a run's config under which these digests are noted."""
_OURS = "peft_vision"
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))


def user_code(components: Iterable[Any]) -> dict[str, str]:
    """Return 16 hex digits for each class within `components`, at any depth, that is not this package's, by its dotted
    name. A class without a source file, such as one of a notebook, has none."""
    classes = {cls for component in components for cls in _classes(component)}
    found = {}
    for cls in classes:
        if cls.__module__.partition(".")[0] != _OURS and (digest := _digest(cls.__module__)) is not None:
            found[f"{cls.__module__}.{cls.__qualname__}"] = digest
    return dict(sorted(found.items()))


def edited(config: Mapping[str, Any], components: Iterable[Any]) -> list[str]:
    """Return the names of the user's classes whose source is not what a run's `config` notes of it."""
    noted = [its for key, its in config.items() if key == CODE and isinstance(its, Mapping)]
    now, then = user_code(components), noted[0] if noted else {}
    return [name for name, digest in now.items() if name in then and then[name] != digest]


def _classes(value: Any) -> Iterator[type]:
    if is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for field in fields(value):
            yield from _classes(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _classes(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _classes(inner)


@lru_cache(maxsize=256)
def _digest(module: str) -> str | None:
    """Return the digest of a module's sources; computed once a process, which goes on with what it imported."""
    if (first := _file(module)) is None:
        return None
    files, waiting = {module: first}, [module]
    while waiting:
        name = waiting.pop()
        for other in _imported(name, files[name]):
            if other not in files and (file := _file(other)) is not None and _belongs(other, file, module, first):
                files[other] = file
                waiting.append(other)
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(f"{name}\0".encode() + hashlib.sha256(files[name].read_bytes()).digest())
    return sha.hexdigest()[:16]


def _file(module: str) -> Path | None:
    path = getattr(sys.modules.get(module), "__file__", None)
    return Path(path) if path and Path(path).is_file() else None


def _belongs(other: str, file: Path, module: str, first: Path) -> bool:
    """Return whether the module `other` is the user's own code as `module` is."""
    if "." in module or first.name == "__init__.py":
        return other.partition(".")[0] == module.partition(".")[0]
    return file.parent == first.parent and str(first.parent) not in _INSTALLED


def _imported(module: str, file: Path) -> Iterator[str]:
    """Yield the names of modules that `module` may import, as far as they stand in its source."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):  # compiled, or edited since it was imported
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    """Yield a.b.c, a.b and a, whose __init__.py files run too."""
    while name:
        yield name
        name = name.rpartition(".")[0]
