"""From a folder of finished runs to their comparison in and out of distribution: a table and pictures."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from peft_vision.report.collect import LeftOut, collect
from peft_vision.report.id_ood import Comparison, comparisons
from peft_vision.report.robustness import Transform
from peft_vision.report.shift_record import record
from peft_vision.report.shift_table import csv_text, markdown, remarks, rich_tables
from peft_vision.run import place, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDEST = 200  # columns, where nobody's terminal says how many
_DPI = 150


def compare(
    folder: Path,
    out: Path,
    *,
    reference: Sequence[str] | None,
    transform: Transform,
    rows: Sequence[str],
    costs: bool,
) -> None:
    """Prints the table of the runs below `folder` and writes table.md, .csv, .json and the pictures to `out`.

    `reference`: the methods whose runs make the line of effective robustness; None: all. `rows`: what has rows of its
    own beside the method. `costs`: whether memory and time are columns. ConfigError where there is no finished run.
    """
    runs, left_out = collect(folder)
    compared = comparisons(runs, reference=reference, transform=transform, rows=rows, costs=costs)
    with writing(out, key="out"):
        out.mkdir(parents=True, exist_ok=True)
    texts = {"md": _document(compared, left_out), "csv": csv_text(compared), "json": _json(compared, left_out)}
    for suffix, text in texts.items():
        place(out / f"table.{suffix}", lambda path, text=text: path.write_text(text, encoding="utf-8"), key="out")
    pictures = [
        name for number, comparison in enumerate(compared) for name in draw(comparison, out, _stem(compared, number))
    ]
    console = Console()
    width = console.width if console.is_terminal else _WIDEST
    for comparison in compared:
        _print(comparison, width)
    for run in left_out:
        console.print(f"left out  {run.folder}: {run.reason}", highlight=False, markup=False, soft_wrap=True)
    names = ", ".join(["table.md, .csv and .json", *pictures])
    console.print(f"written   {out}: {names}", highlight=False, markup=False, soft_wrap=True)


def _print(comparison: Comparison, width: int) -> None:
    console = Console(width=width)
    console.print(f"{comparison.data}, {comparison.backbone}: {comparison.source}\n", highlight=False, markup=False)
    for table in rich_tables(comparison, width=width):
        console.print(table, "")
    for remark in remarks(comparison):
        console.print(f"- {remark}", highlight=False, markup=False, soft_wrap=True)
    console.print()


def _document(compared: Sequence[Comparison], left_out: Sequence[LeftOut]) -> str:
    parts = [markdown(comparison) for comparison in compared]
    if left_out:
        parts.append("## Left out\n\n" + "".join(f"- {run.folder}: {run.reason}\n" for run in left_out))
    return "\n".join(parts)


def _json(compared: Sequence[Comparison], left_out: Sequence[LeftOut]) -> str:
    everything = {
        "comparisons": [record(comparison) for comparison in compared],
        "left_out": [{"folder": run.folder, "reason": run.reason} for run in left_out],
    }
    return json.dumps(everything, indent=2, allow_nan=False) + "\n"


def _stem(compared: Sequence[Comparison], number: int) -> str:
    """What the names of a comparison's pictures begin with; different for each."""
    stems = [
        re.sub(r"[^\w.-]+", "_", f"{comparison.data}-{comparison.backbone}", flags=re.A) for comparison in compared
    ]
    return f"{stems[number]}-{number + 1}" if stems.count(stems[number]) > 1 else stems[number]


def draw(comparison: Comparison, out: Path, stem: str) -> list[str]:
    """Names of the files in `out`, `<stem>-<picture>.png`; none where no run was scored out of distribution."""
    if not comparison.sets:
        return []
    # here, because it takes most of a second
    from peft_vision.report.alpha_curves import alpha_curves
    from peft_vision.report.id_ood_scatter import id_ood_scatter
    from peft_vision.report.shift_bars import shift_bars

    pictures: dict[str, Callable[[Comparison], Figure | None]] = {
        "scatter": id_ood_scatter,
        "alpha": alpha_curves,
        "shifts": shift_bars,
    }
    drawn: list[str] = []
    for name, drawn_by in pictures.items():
        if (figure := drawn_by(comparison)) is not None:
            drawn.append(f"{stem}-{name}.png")
            place(out / drawn[-1], lambda path, figure=figure: figure.savefig(path, format="png", dpi=_DPI), key="out")
    return drawn
