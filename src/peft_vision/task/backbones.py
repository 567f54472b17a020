"""This module shows the families of backbones in a table, or what one backbone is and which methods work on it."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants
from hydra.core.hydra_config import HydraConfig
from rich.table import Table
from rich.text import Text
from torch import nn

from peft_vision.backbone import load
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.match import trunk_of
from peft_vision.backbone.load import Backbone
from peft_vision.backbone.source import ModelSource, find
from peft_vision.core.composition import compared_methods, complete, option
from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.output import Console, one_line
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.core.records import Count, Name, Record, read_record
from peft_vision.data.bands import counted
from peft_vision.method.base import Method
from peft_vision.task.base import Task

TABLE = Path(load.__file__).with_name("timm_models.json")
"""The file that scripts/backbone_table.py writes: building all models to count them takes half an hour."""
_PLAIN_WIDTH = 12  # of the labels of a single backbone
_NARROW = 90  # columns of a terminal, below which columns are one space apart
_WIDEST = 120  # columns that a text fills
_CLASSES = 24  # of a family that are named
_MARKS = "abcdefgh"
_HINT = "backbone=NAME, or backbone=timm backbone.name=NAME, shows one of them"


class WithOption(Record):
    """The number of `names` on which a method works with an `option`, such as location=pad, and not without."""

    option: Name
    names: Count


class FamilyRow(Record):
    """A family of backbones: the number of timm's pretrained `names` and the name of one (`example`), those of each of
    timm's `classes`, and on how many names each of `methods` works, at the values of its file or with one of
    `options`."""

    names: Count
    example: Name
    classes: dict[Name, Count]
    methods: dict[Name, Count]
    options: dict[Name, WithOption]


class FamilyTable(Record):
    """The rows of the families, counted with a version of `timm`."""

    timm: Name
    families: dict[Name, FamilyRow]


@component
class Backbones(Task):
    """A task that prints the table of families, or, where the command chooses a backbone, what this one is."""

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        given = [override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task]
        if not any(key == "backbone" or key.startswith("backbone.") for key in given):
            print_families(families(), Console())
            return
        backbone: Backbone = build(config["backbone"], Backbone, "backbone")
        print_facts(facts(backbone), Console())


def families() -> FamilyTable:
    """Return the table that is shipped with this package."""
    return read_record(TABLE, FamilyTable)


def print_families(table: FamilyTable, console: Console) -> None:
    """Print on how many pretrained names of each family each method works, then timm's classes in each family."""
    marks = _marks(table)
    shown = Table.grid(padding=(0, 1 if console.width < _NARROW else 2, 0, 0))
    shown.add_column("method", no_wrap=True)
    for _ in (*table.families, "all"):
        shown.add_column(justify="right", no_wrap=True)
    shown.add_row("method", *(family.removesuffix("_vit") for family in table.families), "all")
    rows = table.families.values()
    totals = {name: sum(_works(row, name) for row in rows) for row in rows for name in row.methods}
    for method, total in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        shown.add_row(method, *(_cell(row, method, marks) for row in rows), f"{total:,}")
    names = [row.names for row in rows]
    shown.add_row("all names", *(f"{count:,}" for count in names), f"{sum(names):,}")
    console.print(f"Pretrained names of timm {table.timm} on which each method works, by family\n")
    console.print(shown)
    for option_of, mark in marks.items():
        console.print(f"{mark}: with method.{option_of}", soft_wrap=True)
    console.print()
    described = _labelled(console)
    for family, row in table.families.items():
        alone = len(row.classes) == 1
        held = list(row.classes.items())
        classes = ", ".join(cls if alone else f"{cls} {count}" for cls, count in held[:_CLASSES])
        if rest := held[_CLASSES:]:
            classes += f", and {len(rest)} classes with {sum(count for _, count in rest)}"
        described.add_row(family.removesuffix("_vit"), Text(f"{classes}; such as {row.example}"))
    console.print(described)
    console.print(f"\n{_HINT}", soft_wrap=True)


def _labelled(console: Console) -> Table:
    """Return an empty table of labels, and texts whose lines begin behind their labels."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=max(20, min(console.width, _WIDEST) - _PLAIN_WIDTH))
    return grid


def _marks(table: FamilyTable) -> dict[str, str]:
    """Return a letter for each option with which a method works on some family."""
    found = [of.option for row in table.families.values() for of in row.options.values()]
    return dict(zip(dict.fromkeys(found), _MARKS, strict=False))


def _cell(row: FamilyRow, method: str, marks: Mapping[str, str]) -> str:
    count = row.methods.get(method, 0)
    with_option = row.options.get(method)
    mark = "" if with_option is None else marks[with_option.option]
    total = _works(row, method)
    if with_option is not None and count:
        return f"{count:,} +{with_option.names:,}{mark}"
    return f"{total:,}{mark}" if total else "-"


def _works(row: FamilyRow, method: str) -> int:
    with_option = row.options.get(method)
    return row.methods.get(method, 0) + (0 if with_option is None else with_option.names)


def print_facts(found: Mapping[str, str], console: Console) -> None:
    """Print what there is to know of a backbone: a label and its text a line, which a terminal breaks behind the
    label."""
    if not console.is_terminal:
        for label, text in found.items():
            console.print(f"{label:<{_PLAIN_WIDTH}} {text}", soft_wrap=True)
        return
    shown = _labelled(console)
    for label, text in found.items():
        first, _, rest = label.partition(" ")
        shown.add_row(first, Text(f"{rest} {text}".strip()))
    console.print(shown)


def facts(backbone: Backbone) -> dict[str, str]:
    """Return what there is to know of a backbone before its weights are loaded, by label. ConfigError if timm cannot
    build it."""
    source, outline = find(backbone.name), backbone.outline()
    patch = "" if outline.patch is None else f", patches of {outline.patch} px"
    built = "" if source.registered == source.name else f", built as {source.registered}"
    found = {
        "name": source.name,
        "class": f"{outline.cls} of timm {timm.__version__}{built}{patch}",
        "parameters": f"{outline.parameters:,}, without a classifier",
        "images": f"{backbone.preprocessing()}, {counted(outline.channels)}",
        "weights": _weights(backbone, source),
        "licence": one_line(source.config.license or "not stated; see the page of the weights"),
    }
    if outline.refusal is not None:
        return {**found, "methods": f"none: {outline.refusal}"}
    shapes = backbone.of_shapes()
    trunk = trunk_of(deepcopy(shapes))
    trunk.adopt()
    found["features"] = f"{trunk.width:,} numbers of an image; family {trunk.family}, {len(trunk.layers)} layers"
    reasons = working_methods(shapes, backbone.preprocessing())
    found["methods"] = ", ".join(name for name, reason in reasons.items() if reason is None)
    others: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason is not None:
            others.setdefault(reason, []).append(name)
    return {**found, **{f"not {', '.join(names)}:": reason for reason, names in others.items()}}


def working_methods(vit: nn.Module, preprocessing: Preprocessing) -> dict[str, str | None]:
    """Return, for each option of conf/method, None if it can be attached to a model like `vit` at the values of its
    file, otherwise the reason why it cannot. A model on the meta device is enough."""
    bare = _encoder(vit, preprocessing)
    return {name: _misfit(name, vit, bare) for name in compared_methods()}


def _encoder(vit: nn.Module, preprocessing: Preprocessing) -> Encoder:
    return Encoder(deepcopy(vit).requires_grad_(False), preprocessing)


def _misfit(name: str, vit: nn.Module, bare: Encoder) -> str | None:
    method: Method = build(complete(option("method", name)), Method, "method")
    try:
        bare.require(method.needs())
        with torch.device(next(vit.parameters()).device):
            method.attach(_encoder(vit, bare.preprocessing))
    except ConfigError as error:
        return one_line(str(error)).removeprefix("method: ")
    return None


def _weights(backbone: Backbone, source: ModelSource) -> str:
    if backbone.checkpoint is not None:
        return f"the file {backbone.checkpoint}"
    if not backbone.pretrained:
        return "random (backbone.pretrained=false)"
    if source.folder is not None:
        return f"the folder {source.folder}"
    if page := source.config.hf_hub_id:
        return f"{page} on the hub ({constants.ENDPOINT}/{page.partition('@')[0]})"
    return f"the file at {source.config.url}" if source.config.url else "none; backbone.checkpoint=FILE reads yours"
