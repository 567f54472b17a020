"""This module shows the families of backbones in a table, or what one backbone is and which methods work on it."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from hydra.core.hydra_config import HydraConfig
from pydantic import Field
from rich.table import Table
from rich.text import Text
from torch import nn

from peft_vision.backbone import load
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.load import Backbone
from peft_vision.backbone.source import HUB, ModelSource, find
from peft_vision.core.composition import complete, option, options
from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.output import Console, one_line
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.core.records import Count, Name, Record, read_record
from peft_vision.method.base import Method
from peft_vision.task.base import Task

TABLE = Path(load.__file__).with_name("timm_models.json")
"""The file that scripts/backbone_table.py writes: building all models to count them takes minutes."""
_WIDEST = 200
_COLUMNS = ("class in timm", "pretrained models", "methods work on", "such as")
_PLAIN_WIDTH = 12  # of the labels of a single backbone


class FamilyRow(Record):
    """A class of timm with the number of its pretrained models by `names`, on how many of them methods work
    (`accepted`), and the name of one (`example`)."""

    cls: Annotated[Name, Field(alias="class")]
    names: Count
    accepted: Count
    example: Name


class FamilyTable(Record):
    """The rows of the classes, counted with a version of `timm`."""

    timm: Name
    rows: list[FamilyRow]


@component
class Backbones(Task):
    """A task that prints the table of families, or, where the command chooses a backbone, what this one is."""

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        given = [override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task]
        console = Console(width=_WIDEST)  # the table keeps its width in any terminal
        if not any(key == "backbone" or key.startswith("backbone.") for key in given):
            console.print(family_table(families()))
            console.print("backbone=NAME, or backbone=timm backbone.name=NAME, shows one of them", soft_wrap=True)
            return
        backbone: Backbone = build(config["backbone"], Backbone, "backbone")
        for label, text in facts(backbone).items():
            console.print(f"{label:<{_PLAIN_WIDTH}} {text}", soft_wrap=True)


def families() -> FamilyTable:
    """Return the table that is shipped with this package."""
    return read_record(TABLE, FamilyTable)


def family_table(table: FamilyTable) -> Table:
    """Return the families, those with most models first, and their sums."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    for column in _COLUMNS:
        shown.add_column(justify="left" if column in (_COLUMNS[0], _COLUMNS[-1]) else "right", no_wrap=True)
    shown.add_row(*_COLUMNS)
    for row in table.rows:
        shown.add_row(row.cls, f"{row.names:,}", f"{row.accepted:,}" if row.accepted else "", Text(row.example))
    names, accepted = (sum(getattr(row, key) for row in table.rows) for key in ("names", "accepted"))
    shown.add_row(f"timm {table.timm}", f"{names:,}", f"{accepted:,}")
    return shown


def facts(backbone: Backbone) -> dict[str, str]:
    """Return what there is to know of a backbone before its weights are loaded, by label. ConfigError if timm cannot
    build it."""
    source, outline = find(backbone.name), backbone.outline()
    patch = "" if outline.patch is None else f", patches of {outline.patch} px"
    found = {
        "name": source.name,
        "class": f"{outline.cls} of timm {timm.__version__}, built as {source.registered}{patch}",
        "parameters": f"{outline.parameters:,}, without a classifier",
        "images": f"{backbone.preprocessing()}, {outline.channels} channels",
        "weights": _weights(backbone, source),
        "licence": one_line(source.config.license or "not stated; see the page of the weights"),
    }
    if outline.refusal is not None:
        return {**found, "methods": f"none: {outline.refusal}"}
    reasons = working_methods(backbone.of_shapes(), backbone.preprocessing())
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
    return {name: _misfit(name, vit, bare) for name in options("method")}


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
    page = source.config.hf_hub_id
    return f"{page} on the hub ({HUB}{page})" if page else "none on the hub"
