"""This module computes the identity of a run: a digest of every value that can change the result of its training.

    identity = sha256(JSON of {group: canonical(component)} and the seed)

The values are those that pydantic built, so 1e-3 and 0.001, 0 and 0.0, or 100 and 1e2 are one value. A component is
named by its class; a class of this package by its bare name, so that moving it to another module changes no identity.
"""

import ast
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from peft_vision.core.config import (
    FILE,
    FUNCTION,
    NOT_HASHED,
    PACKAGE,
    OnlyWith,
    hashed_fields,
    lasting_value,
    locate,
    marks,
    saved_name,
)

PACKAGED = "package:"
"""The prefix of the name of a file that is shipped inside this package."""
_MODULES_OF_0_1_0 = {
    "peft_vision.head.base": "peft_vision.head",
    "peft_vision.schedule.schedules": "peft_vision.schedule",
    "peft_vision.training.trainer": "peft_vision.trainer",
}
"""The modules of components that make up a run's identity and lay elsewhere then."""
_PATHS_OF_0_1_0 = {
    "Adam": "peft_vision.optimizer.adam.Adam",
    "Breeds": "peft_vision.data.breeds.Breeds",
    "AdamW": "peft_vision.optimizer.adamw.AdamW",
    "SGD": "peft_vision.optimizer.sgd.SGD",
    "FGVC": "peft_vision.data.fgvc.fgvc.FGVC",
}
"""The paths of those whose module had one class then, and has several or another name now."""
_EXACT = 2**53  # beyond it floats no longer represent every whole number


def digest(values: Any) -> str:
    """Return 16 hex digits that stand for `values`, which must be in canonical form."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hashed(component: Any, *, places: bool = True) -> dict[str, Any]:
    """Return the class of a component and its values in canonical form, without those that cannot change a result.
    `places`: whether the paths of the files that it names count."""
    cls = type(component)
    kept = {"_target_": class_name(cls)}
    for field in fields(cls):
        value, field_marks = getattr(component, field.name), marks(cls).get(field.name, ())
        idle = any(isinstance(mark, OnlyWith) and not mark.acts_in(component) for mark in field_marks)
        value = NOT_HASHED if idle else lasting_value(value, field_marks)
        if value is not NOT_HASHED and (places or FILE not in field_marks):
            kept[field.name] = canonical(absolute(value) if FILE in field_marks else value)
    return kept


def class_name(cls: type) -> str:
    """Return the bare name of a class of this package, or the dotted path of a user's class."""
    ours = cls.__module__.partition(".")[0] == PACKAGE
    return saved_name(cls.__qualname__) if ours else f"{cls.__module__}.{cls.__qualname__}"


def canonical(value: Any) -> Any:
    """Return one JSON form for equal values: whole numbers as integers, mappings by key. Components keep their order,
    since the order of a method's parts decides what it computes."""
    if is_dataclass(value):
        return hashed(value)
    if isinstance(value, Mapping):
        if any(is_dataclass(inner) for inner in value.values()):
            return [[str(key), canonical(inner)] for key, inner in value.items()]
        return {str(key): _of_patterns(key, inner) or canonical(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((canonical(inner) for inner in value), key=str)
    if isinstance(value, list | tuple):
        return [canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _of_patterns(key: Any, value: Any) -> list[list[Any]] | None:
    """Return a mapping such as peft's `rank_pattern`, whose first pattern that fits counts, as pairs in order; None for
    any other value, and if the patterns are in the order that a digest gives them."""
    if not str(key).endswith("_pattern") or not isinstance(value, Mapping) or list(value) == sorted(value, key=str):
        return None
    return [[str(pattern), canonical(inner)] for pattern, inner in value.items()]


def plain(node: Mapping[str, Any], component: Any) -> dict[str, Any]:
    """Return `node` with the values of the component built from it, in types that YAML and JSON can hold."""
    return {key: node[key] if key == "_target_" else spelled(getattr(component, key)) for key in node}


def files(component: Any) -> list[str]:
    """Return the absolute paths of the user's files and folders that a component names."""
    named = [getattr(component, name) for name, field_marks in marks(type(component)).items() if FILE in field_marks]
    texts = [text for value in named for text in (value.values() if isinstance(value, Mapping) else [value])]
    return [absolute(text) for text in texts if text is not None and not text.startswith(PACKAGED)]


def located(component: Any) -> Any:
    """Return the same component with absolute paths for the files that it names."""
    named = {
        name: getattr(component, name) for name, field_marks in marks(type(component)).items() if FILE in field_marks
    }
    return replace(component, **{name: absolute(value) for name, value in named.items()}) if named else component


def absolute(name: Any) -> Any:
    """Return the absolute path of a file or folder, also for paths within a mapping, so that it does not depend on the
    current folder; return other values and files of this package as they are."""
    if isinstance(name, Mapping):
        return {key: absolute(inner) for key, inner in name.items()}
    if not isinstance(name, str) or name.startswith(PACKAGED):
        return name
    return os.path.abspath(os.path.expanduser(name))


def spelled(value: Any) -> Any:
    """Return a component as the plain values that build it again, its class among them; other values as they are."""
    if is_dataclass(value):
        cls = type(value)
        values = {field.name: spelled(getattr(value, field.name)) for field in fields(cls)}
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **values}
    if isinstance(value, Mapping):
        return {str(key): spelled(inner) for key, inner in value.items()}
    return [spelled(inner) for inner in value] if isinstance(value, list | tuple | set | frozenset) else value


def first_identity(groups: Mapping[str, Mapping[str, Any]], seed: int) -> str:
    """Return a run's identity as versions up to 0.1.0 computed it: from the values as they were written, and from the
    import path that each class had then."""
    written = {}
    for group, node in groups.items():
        values = {key: value for key, value in node.items() if key != "_target_"}
        cls = locate(node["_target_"], group)
        written[group] = {"_target_": _first_path(cls, node["_target_"]), **hashed_fields(cls, values)}
    return digest({**written, "seed": seed})


def _first_path(cls: type, written: str) -> str:
    """Return the import path of a class in version 0.1.0; of a user's own class, the one that was `written`."""
    if cls.__module__.partition(".")[0] != PACKAGE:
        return written
    path = f"{_MODULES_OF_0_1_0.get(cls.__module__, cls.__module__)}.{cls.__qualname__}"
    return _PATHS_OF_0_1_0.get(cls.__qualname__, path)


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
    """Return the source file of a module, also of one that is imported later, within a function."""
    if module in sys.modules:
        path = getattr(sys.modules[module], "__file__", None)
    else:
        path = getattr(_spec(module), "origin", None)
    return Path(path) if path and Path(path).is_file() else None


def _spec(module: str) -> ModuleSpec | None:
    """Return where a module would be imported from, without importing it or what it lies in."""
    parent = module.rpartition(".")[0]
    if not parent:
        return PathFinder.find_spec(module)
    if parent in sys.modules:
        within = getattr(sys.modules[parent], "__path__", None)
    else:
        within = getattr(_spec(parent), "submodule_search_locations", None)
    return None if within is None else PathFinder.find_spec(module, within)


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
