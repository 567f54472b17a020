"""This module computes digests of the source of a user's own components, so that a run of an edited formula is another
run.

A component's source is the module that defines its class, and what this module imports, directly or not, from its own
package or, if it belongs to none, from the files in its folder.
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

from peft_vision.core.config import FUNCTION, marks

CODE = "user_code"
"""The key of a run's config that holds these digests."""
_OURS = "peft_vision"
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))


def user_code(components: Iterable[Any]) -> dict[str, str]:
    """Return 16 hex digits for each class and function of the user's that `components` name, at any depth, by dotted
    name; those without a source file, such as classes of a notebook, are left out."""
    named = {place for component in components for place in _named(component)}
    digests = {
        f"{module}.{name}": _digest(module) for module, name in sorted(named) if module.partition(".")[0] != _OURS
    }
    return {name: digest for name, digest in digests.items() if digest is not None}


def files_of(code: Iterable[str]) -> dict[str, Path]:
    """Return the source file of each name that `user_code` gave."""
    files = {name: _file(name.rpartition(".")[0]) for name in code}
    return {name: file for name, file in files.items() if file is not None}


def source_of(function: str) -> str:
    """Return the dotted name of a user's function with the digest of its source; names without a dot as they are."""
    module, _, _ = function.rpartition(".")
    return f"{function} {_digest(module)}" if module else function


def edited(config: Mapping[str, Any], components: Iterable[Any]) -> list[str]:
    """Return the names of the user's classes and functions whose source is not what a run's `config` noted."""
    noted = [digests for key, digests in config.items() if key == CODE and isinstance(digests, Mapping)]
    now, then = user_code(components), noted[0] if noted else {}
    return [name for name, digest in now.items() if name in then and then[name] != digest]


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of each class, and each user's function, within a value."""
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        yield cls.__module__, cls.__qualname__
        for field in fields(value):
            inner = getattr(value, field.name)
            if FUNCTION in marks(cls).get(field.name, ()) and "." in inner:
                module, _, name = inner.rpartition(".")
                yield module, name
            yield from _named(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner)


@lru_cache(maxsize=256)
def _digest(module: str) -> str | None:
    """Return the digest of a module's sources, computed once, since a process goes on with what it imported; None
    without a source file."""
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
    """Yield the names of modules that the source of `module` imports, or may import."""
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
