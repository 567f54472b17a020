"""This module puts a plan into tables and words for a terminal."""

import math
import shlex
from collections.abc import Sequence

from rich.table import Table

from peft_vision.features.shelf import size
from peft_vision.plan.bill import Cost, CostEstimate
from peft_vision.report.terminal import tables

_GIB = 2**30
_DAY = 86_400
_SLACK = 2.0  # time limit of each Slurm job, in multiples of the longest run


def plan_tables(bill: CostEstimate, *, width: int) -> list[Table]:
    """Return tables with a line for each method and backbone, one for what they share, and the sum."""
    lines = [[method, backbone, *_cells(cost)] for (method, backbone), cost in bill.costs.items()]
    if bill.shared.scored:
        lines.append(["filling the store", "", *_cells(bill.shared)])
    lines.append(["in all", "", *_cells(bill.total)])
    head = ["method", "backbone", "runs", "trained images", "scored images", "saved by the store", "time"]
    return tables(list(zip(head, *lines, strict=True)), words=("method", "backbone"), width=width, beside=2)


def _cells(cost: Cost) -> list[str]:
    runs = f"{cost.runs:,.0f}" if cost.runs else ""
    return [runs, _many(cost.trained), _many(cost.scored), _many(cost.saved), duration(cost.seconds)]


def notes(bill: CostEstimate, *, ended: float, device: str, faster: float, disk_gib: float, devices: int) -> list[str]:
    """Return notes on what the figures mean, and what they leave out."""
    total = bill.total
    said = [
        f"runs     {total.runs:,.0f} to do" + (f"; {ended:,.0f} are done and not counted" if ended else ""),
        f"passes   {_many(total.trained)} images with gradients, {_many(total.scored)} without; "
        "an image counts each time it passes the backbone",
    ]
    if total.saved:
        share = 100 * total.saved / (total.saved + total.passes)
        said.append(f"store    saves {_many(total.saved)} passes, {share:.0f} % of what there would be without it")
    speed = "" if faster == 1 else f", scaled to {faster:.3g} times its speed by task.rate"
    said += [
        f"time     {total.seconds / 3600:,.3g} hours of one device, at least {duration(bill.on(devices))} on {devices}"
        f"; measured on {device}{speed}",
        f"of this  {duration(total.device)} computing, {duration(total.reading)} reading, "
        f"{duration(total.starting)} starting; the longest run {duration(bill.longest)}",
        f"disk     {size(total.disk)} of runs; {size(total.store)} more in the store"
        + (f", which keeps {disk_gib:g} GiB (features.disk_gib)" if total.store > disk_gib * _GIB else ""),
    ]
    if bill.unread:
        shown = ", ".join(bill.unread[:3]) + (f" and {len(bill.unread) - 3} more" if bill.unread[3:] else "")
        said.append(f"unknown  the time to read pictures of {shown}, which are not here")
    if total.unmeasured:
        said.append("unknown  the time of solvers such as L-BFGS, seconds mostly")
    return said


def slurm_line(bill: CostEstimate, arguments: Sequence[str], *, devices: int) -> str:
    """Return the same command as Slurm jobs, which only a sweep starts, even for a single run."""
    kept = [word for word in arguments if not word.startswith(("task=", "task.", "hydra/launcher", "hydra.launcher"))]
    sweep = [] if {"-m", "--multirun"} & set(kept) else ["-m"]
    minutes = max(10, 10 * math.ceil(_SLACK * bill.longest / 600))
    launcher_words = [f"hydra.launcher.timeout_min={minutes}", f"hydra.launcher.array_parallelism={devices}"]
    return shlex.join(["peft-vision", *sweep, *kept, "hydra/launcher=slurm_gpu", *launcher_words])


def duration(seconds: float) -> str:
    """Return the duration in words, such as 12 s, 3 min, 4.5 h or 12.0 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:,.1f} days"


def _many(count: float) -> str:
    if abs(count) < 1e5:
        return f"{count:,.0f}"
    return f"{count / 1e6:,.2f} M" if abs(count) < 1e9 else f"{count / 1e9:,.2f} G"
