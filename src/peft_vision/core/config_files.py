"""This module reads the names and the keys of config files without Hydra, which takes longer to import than a shell may
wait for a completion.

`composed` follows defaults lists and packages as Hydra does, as far as the files of this package use them; it resolves
no interpolation. A test compares its keys with those that Hydra composes, for every option.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_HERE = Path(__file__).resolve().parents[1]
# inside this package in a wheel, at the repository root in a checkout
CONFIG_DIR = next(p for p in (_HERE / "conf", _HERE.parents[1] / "conf") if (p / "config.yaml").is_file())
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PACKAGE = re.compile(r"# @package (\S+)")
_KEY = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<rest>.*)")
_OVERRIDE = re.compile(r"override /?(?P<group>[\w/]+)")


def options_below(folder: "Traversable", group: str = "") -> Iterator[tuple[str, str]]:
    """Yield the group and the name of each YAML file in `folder` and in folders below it."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from options_below(entry, f"{group}/{entry.name}".lstrip("/"))
        elif entry.name.endswith(".yaml"):
            yield group, entry.name.removesuffix(".yaml")


@dataclass
class Composed:
    """The values that files give, nested by key and not resolved; `remarks` on them by dotted key; and the `choices` of
    groups."""

    values: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)

    def at(self, key: str) -> Any:
        """Return the value of a dotted key, or None if there is no such key."""
        node: Any = self.values
        for part in key.split(".") if key else ():
            node = node[part] if isinstance(node, Mapping) and part in node else None
        return node


class ConfigFiles:
    """The config files of some folders; of two files with one name, that in the first folder is read."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [folder for folder in folders if folder.is_dir()]

    def is_group(self, name: str) -> bool:
        """Return whether the options of a group of this name can be chosen, such as those of method or
        hydra/launcher."""
        return bool(name) and name != "hydra" and any((folder / name).is_dir() for folder in self.folders)

    def groups(self) -> list[str]:
        """Return the names of the groups that a run chooses from, sorted."""
        found = {entry.name for folder in self.folders for entry in folder.iterdir() if entry.is_dir()}
        return sorted(name for name in found - {"hydra", "shared"} if not name.startswith((".", "_")))

    def options(self, group: str, inside: str = "") -> list[str]:
        """Return the options of a group that are in its folder `inside`, sorted, and the folders there with a slash at
        their end."""
        found: set[str] = set()
        for folder in self.folders:
            place = folder / group / inside
            for entry in place.iterdir() if place.is_dir() else ():
                if entry.is_dir() and not entry.name.startswith((".", "_")):
                    found.add(f"{inside}{entry.name}/")
                elif entry.suffix == ".yaml":
                    found.add(f"{inside}{entry.stem}")
        return sorted(found)

    def composed(self, chosen: Mapping[str, str | Sequence[str]]) -> Composed:
        """Return what config.yaml and the options of all groups give; `chosen` on the command line: the option of a
        group, or several."""
        found = Composed()
        self._load("config", "", "", found)
        defaults = found.choices
        experiment = _last(chosen.get("experiment", ""))
        if experiment:
            self._note_overrides(f"experiment/{experiment}", defaults)
        found.choices = {**defaults, **{group: _last(names) for group, names in chosen.items()}}
        for group, option in found.choices.items():
            names = chosen.get(group, option)
            for name in [names] if isinstance(names, str) else names:
                self._load(f"{group}/{name}", group, group.replace("/", "."), found)
        return found

    def _find(self, name: str) -> Path | None:
        return next((path for folder in self.folders if (path := folder / f"{name}.yaml").is_file()), None)

    def _load(self, name: str, group: str, package: str, found: Composed, *, given: bool = False) -> None:
        """Add the file `name` of a group, without its ending, and the files that it starts from. `package`: the dotted
        key of its values, which the file may state itself unless the file that starts from it has `given` it."""
        path = self._find(name)
        if path is None:
            return
        text, values, starts = _read(path, path.stat().st_mtime_ns)
        if (stated := _PACKAGE.match(text)) and not given:
            package = "" if stated[1] == "_global_" else stated[1]
        for start, place in _starts(starts, group, found.choices):
            inner = group if not start.startswith("/") else start.rpartition("/")[0].lstrip("/")
            usual = package if inner == group else inner.replace("/", ".")
            self._load(start.lstrip("/"), inner, _placed(place, package, usual), found, given=place is not None)
        node = found.values
        for part in package.split(".") if package else ():
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                return
        _merge(node, values)
        for key, remark in _remarks(text, package):
            if " | " in remark or key not in found.remarks:  # a file that sets one of the listed values remarks on that
                found.remarks[key] = remark

    def _note_overrides(self, name: str, choices: dict[str, str]) -> None:
        """Note the options that an experiment chooses, those of the experiments that it starts from first."""
        path = self._find(name)
        _, _, starts = ("", {}, []) if path is None else _read(path, path.stat().st_mtime_ns)
        for entry in starts:
            if isinstance(entry, str) and entry != "_self_" and "@" not in entry:
                self._note_overrides(entry.lstrip("/") if entry[0] == "/" else f"experiment/{entry}", choices)
            for key, option in entry.items() if isinstance(entry, dict) else ():
                if match := _OVERRIDE.fullmatch(key):
                    choices[match["group"]] = _last(option)


@cache  # a command line begins from some files twice, and tests from most of them often
def _read(path: Path, changed: int) -> tuple[str, Mapping[str, Any], Sequence[Any]]:
    """Return the text of a file, its values and its defaults list. `changed`: when the file was, in ns."""
    text = path.read_text(encoding="utf-8")
    loaded = yaml.load(text, _LOADER)
    values = loaded if isinstance(loaded, dict) else {}
    starts = values["defaults"] if isinstance(values.get("defaults"), list) else []
    return text, {key: value for key, value in values.items() if key != "defaults"}, starts


def _last(names: Any) -> str:
    """Return the last name of several, and the name itself of one."""
    found = names if isinstance(names, list | tuple) else [names]
    return str(found[-1]) if found and found[-1] is not None else ""


def _starts(entries: Sequence[Any], group: str, choices: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yield the name and the package, if one is given, of each file that the defaults list of a file of `group` names.
    The choices of groups, which only config.yaml lists, are added to `choices` instead."""
    for entry in entries:
        if isinstance(entry, dict):
            ((key, option),) = entry.items()
            base, _, place = key.partition("@")
            if match := _OVERRIDE.fullmatch(key):
                choices.setdefault(match["group"], _last(option))
            elif not group:
                choices.setdefault(key, _last(option))
            elif isinstance(option, str):
                yield f"{base}/{option}" if base.startswith("/") else f"{group}/{base}/{option}", place or None
        elif entry != "_self_":
            base, _, place = entry.partition("@")
            yield base if base.startswith("/") else f"{group}/{base}".lstrip("/"), place or None


def _placed(place: str | None, package: str, usual: str) -> str:
    """Return the package of a file that one of `package` starts from; `usual`: where the latter does not say."""
    if place in ("_global_", "_here_"):
        return "" if place == "_global_" else package
    return usual if place is None else f"{package}.{place}".lstrip(".")


def _merge(inside: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if not isinstance(value, Mapping):
            inside[key] = value
        elif isinstance(inside.setdefault(key, {}), dict):
            _merge(inside[key], value)
        else:
            inside[key] = dict(value)


def _remarks(text: str, package: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the remark behind it of each line that has one."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := _KEY.fullmatch(line):
            indent = len(match["indent"])
            while parents and parents[-1][0] >= indent:
                parents.pop()
            parents.append((indent, match["key"]))
            _, marked, remark = match["rest"].partition(" # ")
            if marked:
                yield ".".join([*filter(None, [package]), *(key for _, key in parents)]), remark.strip()
