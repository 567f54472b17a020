"""This module shows the families of backbones in a table, or what one backbone is and which methods work on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import timm
from hydra.core.hydra_config import HydraConfig
from pydantic import Field
from rich.table import Table
from rich.text import Text

from peft_vision.backbone import load
from peft_vision.backbone.load import Backbone, Outline
from peft_vision.backbone.source import HUB, ModelSource, find
from peft_vision.core.composition import complete, option
from peft_vision.core.config import CONFIG_DIR, build, component
from peft_vision.core.output import Console, one_line
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
    methods, others = working_methods(outline)
    found["methods"] = ", ".join(methods) or f"none: {outline.refusal}"
    for reason, names in others.items():
        found[f"not {', '.join(names)}"] = f"it {reason}"
    return found


def working_methods(outline: Outline) -> tuple[list[str], dict[str, list[str]]]:
    """Return the options of conf/method that work on a model of this outline, and the others by the reason why they do
    not; none at all on a model that no family takes."""
    working: list[str] = []
    others: dict[str, list[str]] = {}
    if outline.refusal is not None:
        return working, others
    for name in sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml")):
        method: Method = build(complete(option("method", name)), Method, "method")
        lacking = sorted(method.needs() & outline.lacks.keys())
        if lacking:
            others.setdefault(outline.lacks[lacking[0]], []).append(name)
        else:
            working.append(name)
    return working, others


def _weights(backbone: Backbone, source: ModelSource) -> str:
    if backbone.checkpoint is not None:
        return f"the file {backbone.checkpoint}"
    if not backbone.pretrained:
        return "random (backbone.pretrained=false)"
    if source.folder is not None:
        return f"the folder {source.folder}"
    page = source.config.hf_hub_id
    return f"{page} on the hub ({HUB}{page})" if page else "none on the hub"
