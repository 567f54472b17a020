"""Count on how many of timm's pretrained names each method works, over shapes alone, for `peft-vision task=backbones`.

    nice python scripts/backbone_table.py            all names: writes the table, and prints the names that are refused
    nice python scripts/backbone_table.py 'swin*'    the names that match patterns: prints only
    ... --every                                      attaches the methods to every architecture, not one of each class
    ... --check                                      calls `backbone.check()` for every name, as a run does first

Every architecture is built once for its class and family. Every method is attached to the smallest architecture of
each class in a family, at the values of its file and, where that does not work, with the option that docs/backbones.md
names; where neither works, though the family has what the method needs, to every architecture of the class.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import timm
import torch

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.match import FAMILIES
from peft_vision.backbone.load import Backbone
from peft_vision.backbone.outline import shapes_alone
from peft_vision.backbone.source import find
from peft_vision.core.composition import compared_methods, complete, option
from peft_vision.core.config import ConfigError, build
from peft_vision.core.output import one_line, say
from peft_vision.core.progress import track
from peft_vision.method.base import Method
from peft_vision.task.backbones import TABLE

Item = TypeVar("Item")
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"targets": ["fc1", "fc2"]},
    "fact_tt": {"layers": "last-2"},
    "fact_tk": {"layers": "last-2"},
    "vpt_shallow": {"location": "pad"},
}
"""What makes a method work on a family where the values of its file do not."""
COLUMNS = {"swin_v2": "swin", "swin_v2_cr": "swin"}
"""The families that are counted in the column of another, on which the same methods work."""
CHOOSING = ("linear", "full", "lp_ft", "bitfit", "partial", "layer_norm")
"""The methods that add no modules but choose which parameters train."""
FAILURES = (ConfigError, RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError)


def worded(values: dict[str, Any]) -> str:
    """Return an option as a command has it, such as targets=[fc1,fc2]."""
    ((key, value),) = values.items()
    return f"{key}=[{','.join(value)}]" if isinstance(value, list) else f"{key}={value}"


@cache
def method(name: str, *, with_option: bool = False) -> Method:
    """Return the method of an option of conf/method, or the same with the option that OPTIONS has for it."""
    return build({**complete(option("method", name)), **(OPTIONS[name] if with_option else {})}, Method, "method")


def shipped(name: str) -> Backbone:
    """Return the backbone that backbone=timm backbone.name=NAME chooses."""
    return build({**complete(option("backbone", "timm")), "name": name}, Backbone, "backbone")


def misfit(chosen: Method, encoder: Encoder, *, adds: bool = True) -> str | None:
    """Return why a method does not work on an encoder without numbers, or None. `adds`: whether it adds modules, so
    that it is tried on a copy."""
    try:
        encoder.require(chosen.needs())
        with torch.device("meta"):
            chosen.attach(deepcopy(encoder) if adds else encoder)
    except FAILURES as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return f"{kind}{one_line(error)}"
    finally:
        encoder.requires_grad_(False)
    return None


@dataclass(frozen=True)
class Kind:
    """What an architecture is: timm's class, the family that computes it, and its number of parameters."""

    cls: str
    family: str
    parameters: int


def kind_of(architecture: str) -> Kind:
    """Return the kind of an architecture."""
    with shapes_alone():
        model = timm.create_model(architecture, num_classes=0)
    named = next((family for family in FAMILIES if type(model) is family.builds), None)
    family = "any" if named is None or named.misfit(model) is not None else COLUMNS.get(named.family, named.family)
    return Kind(type(model).__name__, family, sum(parameter.numel() for parameter in model.parameters()))


def works(name: str) -> dict[str, dict[str, str] | None]:
    """Return for each method None if it works on the architecture of a name, the option with which it works, or the
    reason why it does not. ConfigError if no method works."""
    backbone = shipped(name)
    encoder = Encoder(backbone.of_shapes().requires_grad_(False), backbone.preprocessing())
    found: dict[str, dict[str, str] | None] = {}
    for method_name in compared_methods():
        reason = misfit(method(method_name), encoder, adds=method_name not in CHOOSING)
        with_option = method_name in OPTIONS and reason is not None
        if with_option and misfit(method(method_name, with_option=True), encoder) is None:
            found[method_name] = {"option": worded(OPTIONS[method_name])}
        elif reason is None:
            found[method_name] = None
        else:
            lacking = method(method_name).needs() & encoder.trunk.lacks.keys()
            found[method_name] = {"of": "family" if lacking else "architecture", "reason": reason}
    return found


def refusal(name: str, *, whole: bool) -> str | None:
    """Return why a run with these weights would not start, or None. Without `whole`, that there are weights is all that
    is asked."""
    try:
        if whole:
            shipped(name).check()
        else:
            find(name).check_weights()
    except ConfigError as error:
        return one_line(error)
    return None


def table_of(names: list[str], *, every: bool, whole: bool) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the table, and the names that are refused or on which a method for every model does not work, by
    reason."""
    by_architecture: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_architecture[name.partition(".")[0]].append(name)
    kinds = {name: kind_of(name) for name in followed(by_architecture, "build")}
    smallest: dict[tuple[str, str], str] = {}
    for architecture, kind in sorted(kinds.items(), key=lambda item: item[1].parameters):
        smallest.setdefault((kind.family, kind.cls), architecture)
    tried = list(kinds) if every else list(smallest.values())
    found = {
        architecture: works(by_architecture[architecture][0]) for architecture in followed(tried, "try methods on")
    }
    doubtful = {kinds[name] for name, methods in found.items() if any(map(of_architecture, methods.values()))}
    classes = {(kind.family, kind.cls) for kind in doubtful}
    others = [name for name, kind in kinds.items() if (kind.family, kind.cls) in classes and name not in found]
    found |= {name: works(by_architecture[name][0]) for name in followed(others, "try methods on")}
    families: dict[str, Any] = {}
    refused: dict[str, list[str]] = defaultdict(list)
    for architecture, kind in followed(kinds.items(), "check"):
        methods = found.get(architecture) or found[smallest[kind.family, kind.cls]]
        for name in by_architecture[architecture]:
            if (reason := refusal(name, whole=whole)) is not None:
                refused[reason].append(name)
                continue
            count(families, kind, methods, name)
            for method_name in ("linear", "full", "lp_ft", "bitfit"):
                if (lacking := methods[method_name]) is not None:
                    refused[f"{method_name}: {lacking['reason']}"].append(name)
    return {"timm": timm.__version__, "families": ordered(families)}, refused


def of_architecture(found: dict[str, str] | None) -> bool:
    """Return whether a method does not work for a reason that another architecture of the class need not have."""
    return found is not None and found.get("of") == "architecture"


def followed(items: Collection[Item], what: str) -> Iterator[Item]:
    """Yield the items and show how many there were."""
    return track(items, label=f"{what} architectures", total=len(items), unit="architectures")


def count(families: dict[str, Any], kind: Kind, methods: dict[str, dict[str, str] | None], name: str) -> None:
    """Count a name in the row of its family."""
    family = families.setdefault(
        kind.family, {"names": 0, "example": name, "classes": defaultdict(int), "methods": {}, "options": {}}
    )
    family["names"] += 1
    family["classes"][kind.cls] += 1
    for method_name, found in methods.items():
        family["methods"][method_name] = family["methods"].get(method_name, 0) + (found is None)
        if found and "option" in found:
            option_of = family["options"].setdefault(method_name, {"option": found["option"], "names": 0})
            option_of["names"] += 1


def ordered(families: dict[str, Any]) -> dict[str, Any]:
    """Return the families in the order of docs/backbones.md, each with its classes by size."""
    order = ("vit", "distilled_vit", "eva", "beit", "relative_vit", "swin", "convnext", "any")
    for family in families.values():
        family["classes"] = dict(sorted(family["classes"].items(), key=lambda item: (-item[1], item[0])))
    return {name: families[name] for name in sorted(families, key=order.index)}


def main() -> None:
    """Count, print what is refused, and write the table where all names were counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    names = timm.list_pretrained(arguments.patterns or "*")
    table, refused = table_of(names, every=arguments.every, whole=arguments.check)
    say(f"timm {timm.__version__}: {len(names):,} pretrained names")
    for reason, of_it in sorted(refused.items(), key=lambda item: -len(item[1])):
        say(f"not {len(of_it)}: {reason}: {', '.join(of_it)}")
    for name, family in table["families"].items():
        say(f"{name}: {family['names']:,}: {family['methods']} {family['options']}")
    if not arguments.patterns:
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
        say(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
