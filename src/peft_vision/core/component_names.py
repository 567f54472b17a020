"""This module gives the components of this package short names, under which saved files refer to them.

config.yaml, result.json and adapter files say `_target_: LoRA`, and not in which module the class is, so that a class
can move to another module and files written before can still be read. The shipped config files, each in the folder of
its config group, say where each class is today. A user's own class is saved with its import path.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parents[1]
# inside this package in a wheel, at the repository root in a checkout
CONFIG_DIR = next(p for p in (_HERE / "conf", _HERE.parents[1] / "conf") if (p / "config.yaml").is_file())
PACKAGE = __name__.partition(".")[0]
_TARGET = re.compile(rf"\b_target_: *({PACKAGE}\.[\w.]+)")


def shortened(node: Any) -> Any:
    """Return a config, at any depth, with the short names of this package's components instead of their import
    paths."""
    if isinstance(node, Mapping):
        return {key: _short(value) if key == "_target_" else shortened(value) for key, value in node.items()}
    return [shortened(value) for value in node] if isinstance(node, list | tuple) else node


def import_path(name: str, where: str) -> str | None:
    """Return the import path of a component with this short name, or None if there is none. `where`: the key of the
    component, such as data or config.ood.stl10, whose config group tells two classes of one name apart."""
    paths = _paths().get(name, {})
    of_group = [paths[group] for group in where.split(".") if group in paths]
    different = set(of_group or paths.values())
    return different.pop() if len(different) == 1 else None


def moved(path: str, where: str) -> str | None:
    """Return where a component of this package is today whose import path was once `path`; None if there is none."""
    today = import_path(path.rpartition(".")[2], where) if path.startswith(f"{PACKAGE}.") else None
    return None if today == path else today


def _short(target: Any) -> Any:
    name = target.rpartition(".")[2] if isinstance(target, str) else ""
    return name if target in _paths().get(name, {}).values() else target


@cache
def _paths() -> Mapping[str, Mapping[str, str]]:
    """Return the import path of each shipped component by class name and config group."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(CONFIG_DIR.glob("*/**/*.yaml")):
        for path in _TARGET.findall(file.read_text(encoding="utf-8")):
            found.setdefault(path.rpartition(".")[2], {})[file.relative_to(CONFIG_DIR).parts[0]] = path
    return found
