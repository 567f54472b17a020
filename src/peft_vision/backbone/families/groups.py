"""This module divides a timm model into what timm's own `group_matcher` calls its stem, its stages and the rest.

timm groups parameters by regular expressions over their names, for learning rates that fall with depth. A model that
has no `group_matcher` is divided by the modules whose outputs timm calls its features at each scale (`feature_info`),
and is one stage where there are none.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from timm.models import group_parameters
from torch import nn

_STEM, _END = -1, math.inf


class Members(nn.Module):
    """A module that lists modules and single parameters of a model that belong together; nothing calls it."""

    def __init__(self, members: Iterable[nn.Module | nn.Parameter]) -> None:
        super().__init__()
        members = list(members)
        self.whole = nn.ModuleList(member for member in members if isinstance(member, nn.Module))
        self.single = nn.ParameterList(member for member in members if isinstance(member, nn.Parameter))


class Groups:
    """The parts of a model: `stem`, `stages` (at least one, first to last) and `end`. `stage_of`: the stage of each
    parameter by its name, for those of stages alone."""

    def __init__(self, model: nn.Module) -> None:
        found = _grouped(model)
        numbers = sorted({number for number in found.values() if number not in (_STEM, _END)})
        self.stage_of = {name: numbers.index(number) for name, number in found.items() if number in numbers}
        self.stem = Members(_members(model, "", found, _STEM))
        self.stages = tuple(Members(_members(model, "", found, number)) for number in numbers)
        self.end = Members(_members(model, "", found, _END))


def _grouped(model: nn.Module) -> dict[str, float]:
    """Return the group of each parameter: _STEM, a number that rises with depth, or _END."""
    names = [name for name, _ in model.named_parameters()]
    alone = dict.fromkeys(names, 0.0)
    if not hasattr(model, "group_matcher"):
        return _by_features(model, names) or alone
    found = alone
    for coarse in (True, False):  # where all blocks are one coarse group, each of them is a stage
        try:
            matcher = model.group_matcher(coarse=coarse)
        except (AssertionError, NotImplementedError):  # timm's RDNet has no coarse groups
            continue
        numbers = group_parameters(model, matcher, reverse=True)
        found = {name: _named(matcher, name, numbers[name]) for name in names}
        if len({number for number in found.values() if number not in (_STEM, _END)}) > 1:
            return found
    return found if set(found.values()) - {_STEM, _END} else alone


def _by_features(model: nn.Module, names: list[str]) -> dict[str, float]:
    """Return the group of each parameter where timm names the module at the end of each scale; otherwise nothing. What
    is before a module belongs to its stage, what is before the first one to the stem, what is after the last one to
    the end."""
    infos = getattr(model, "feature_info", None)
    ends = [info["module"] for info in infos] if isinstance(infos, list) else []
    found: dict[str, float] = {}
    waiting: list[str] = []
    for name in names:
        waiting.append(name)
        number = next((number for number, end in enumerate(ends) if name.startswith(f"{end}.")), None)
        if number is not None:
            outside = number if found else _STEM
            found |= dict.fromkeys(waiting, outside) | {name: number}
            waiting = []
    return {**found, **dict.fromkeys(waiting, _END)} if found else {}


def _named(matcher: Mapping[str, Any] | Callable[[str], Any], name: str, number: int) -> float:
    """Return `number`, or _STEM or _END for what the matcher calls the stem, or does not match at all."""
    if not isinstance(matcher, Mapping):
        return _STEM if number == 0 else number
    if _matches(matcher.get("stem"), name):
        return _STEM
    return number if any(_matches(spec, name) for spec in matcher.values()) else _END


def _matches(spec: str | Iterable[tuple[str, Any]] | None, name: str) -> bool:
    patterns = [spec] if isinstance(spec, str) else [pattern for pattern, _ in spec or ()]
    return any(re.match(pattern, name) for pattern in patterns)


def _members(module: nn.Module, path: str, found: Mapping[str, float], group: float) -> list[nn.Module | nn.Parameter]:
    """Return the largest modules below `path` whose parameters are all of `group`, and the other parameters of it."""
    prefix = f"{path}." if path else ""
    inside = {found.get(f"{prefix}{name}") for name, _ in module.named_parameters()}
    if group not in inside:
        return []
    if path and inside == {group}:
        return [module]
    single = [
        parameter for name, parameter in module.named_parameters(recurse=False) if found.get(f"{prefix}{name}") == group
    ]
    children = (_members(child, f"{prefix}{name}", found, group) for name, child in module.named_children())
    return [*single, *chain.from_iterable(children)]
