"""Write the table of timm's pretrained models that `peft-vision task=backbones` prints.

    python scripts/backbone_table.py    builds all architectures as shapes alone, which takes about three minutes

A row is a class of timm: the number of weights by name, on how many of them methods work, and one of the names.
"""

import json
from collections import defaultdict
from pathlib import Path

import timm

from peft_vision.backbone.outline import outline_of
from peft_vision.core.output import say
from peft_vision.task.backbones import TABLE


def rows(names: list[str]) -> list[dict[str, object]]:
    """Return a row for each class that builds one of `names`, the largest class first."""
    by_architecture: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_architecture[name.partition(".")[0]].append(name)
    found: dict[str, dict[str, object]] = {}
    for architecture, of_it in by_architecture.items():
        outline = outline_of(architecture, repr({}))
        row = found.setdefault(outline.cls, {"class": outline.cls, "names": 0, "accepted": 0, "example": of_it[0]})
        if outline.refusal is None and not row["accepted"]:
            row["example"] = of_it[0]  # one on which methods work, if there is one
        row["names"] += len(of_it)
        row["accepted"] += len(of_it) if outline.refusal is None else 0
    return sorted(found.values(), key=lambda row: (-row["names"], row["class"]))


def main() -> None:
    """Write the table beside the task."""
    table = rows(timm.list_pretrained())
    lines = ",\n".join(f"    {json.dumps(row)}" for row in table)
    Path(TABLE).write_text(f'{{\n  "timm": {json.dumps(timm.__version__)},\n  "rows": [\n{lines}\n  ]\n}}\n')
    say(f"{sum(row['names'] for row in table):,} names of {len(table)} classes: {TABLE}")


if __name__ == "__main__":
    main()
