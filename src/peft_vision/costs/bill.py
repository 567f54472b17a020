"""This module computes what runs cost: passes through the backbone, seconds and bytes; what runs share is counted
once."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rich.table import Table as RichTable

from peft_vision.core.table import Cell, Column, Table, terminal
from peft_vision.costs.expected import RunGroup, Stock
from peft_vision.costs.held import HeldBytes
from peft_vision.costs.rates import Rates
from peft_vision.costs.walk import Anatomy, Tally, walk
from peft_vision.features.shelf import size

_RECORDS = 64 * 2**10  # bytes of a run's folder apart from its adapter: config, metrics, result, log
_START = 0.6  # seconds of a process apart from its model and its work: benchmarks/sweep_overhead.py
_SERVER = 4.0  # seconds in which a pool imports torch and timm, once for all its runs
_ELSEWHERE = ("find",)  # acts that another device does no faster


@dataclass(frozen=True)
class Cost:
    """The cost of some runs. `runs`: the number left to do. Images that pass the backbone, counted at each pass:
    `trained`, with gradients; `scored`, without, those for the store included; `saved`, how many more there would be
    without the store. Seconds: `device`, which a faster device reduces; `reading` pictures and the store; `starting`
    processes and models. `disk`: bytes of the runs' folders; `store`: bytes that they add to the store. `unmeasured`:
    whether they include a solver, whose time depends on the data."""

    runs: float = 0.0
    trained: float = 0.0
    scored: float = 0.0
    saved: float = 0.0
    device: float = 0.0
    reading: float = 0.0
    starting: float = 0.0
    disk: float = 0.0
    store: float = 0.0
    unmeasured: bool = False

    @property
    def passes(self) -> float:
        return self.trained + self.scored

    @property
    def seconds(self) -> float:
        return self.device + self.reading + self.starting

    def __add__(self, other: "Cost") -> "Cost":
        values = {name: value + vars(other)[name] for name, value in vars(self).items() if name != "unmeasured"}
        return Cost(**values, unmeasured=self.unmeasured or other.unmeasured)

    def __mul__(self, times: float) -> "Cost":
        values = {name: value * times for name, value in vars(self).items() if name != "unmeasured"}
        return Cost(**values, unmeasured=self.unmeasured)


@dataclass
class CostEstimate:
    """The costs of all runs. `costs`: by method and backbone, without the filling of the store, which is in `shared`.
    `longest`: seconds of the longest run; `held`: what the largest model holds before its first step. `unread`: data
    sets that are not here, so that the time to read their pictures is unknown."""

    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    shared: Cost = field(default_factory=Cost)
    longest: float = 0.0
    held: HeldBytes = field(default_factory=HeldBytes)
    unread: list[str] = field(default_factory=list)

    @property
    def total(self) -> Cost:
        return sum(self.costs.values(), self.shared + Cost(starting=_SERVER))

    def on(self, devices: int) -> float:
        """Return the least seconds on this many devices at a time, since one device does the whole longest run."""
        return max(self.total.seconds / devices, self.longest)


@dataclass(frozen=True)
class Priced:
    """A demand with the anatomy of its model, its rates, and the seconds to read a picture, None if its pictures are
    not here."""

    demand: RunGroup
    anatomy: Anatomy
    rates: Rates
    reading: float | None


def bill(priced: Sequence[Priced], stock: Stock, *, faster: float) -> CostEstimate:
    """Return the bill of all demands, taken in the order of the runs. `faster`: the speed of the device that will do
    the work, as a multiple of the measured one's."""
    whole = CostEstimate()
    for item in priced:
        demand = item.demand
        features = demand.experiment.features
        first = walk(item.anatomy, demand, features, stock)
        later = walk(item.anatomy, demand, features, stock)
        never = walk(item.anatomy, demand, replace(features, use="never"), stock)
        choices = demand.experiment.choices
        if item.reading is None and choices["data"] not in whole.unread:
            whole.unread.append(choices["data"])
        cost = replace(_of_a_run(later, item, faster), saved=never.passes.total() - later.passes.total())
        key = (choices["method"], choices["backbone"])
        whole.costs[key] = whole.costs.get(key, Cost()) + cost * demand.times
        filling = _filling(first, later, item, faster)
        whole.shared += filling
        whole.longest = max(whole.longest, cost.seconds + filling.seconds)
        held = item.anatomy.held.with_models(max(phase.settings for phase in item.anatomy.phases))
        whole.held = max(whole.held, held, key=lambda bytes_held: bytes_held.total)
    return whole


def _of_a_run(tally: Tally, item: Priced, faster: float) -> Cost:
    device, elsewhere, unmeasured = _seconds(tally, item.rates)
    return Cost(
        runs=1.0,
        trained=tally.trained.total(),
        scored=tally.scored.total() + tally.observed.total(),
        device=device / faster,
        reading=elsewhere + (item.reading or 0.0) * sum((*item.demand.images.values(), *item.demand.shifts.values())),
        starting=item.rates.setup + _START,
        disk=4 * item.anatomy.trained + _RECORDS,
        store=tally.written,
        unmeasured=unmeasured,
    )


def _filling(first: Tally, later: Tally, item: Priced, faster: float) -> Cost:
    """Return the cost of what the first run does in addition to what each later run does."""
    one, other = _of_a_run(first, item, faster), _of_a_run(later, item, faster)
    return replace(
        Cost(),
        scored=one.scored - other.scored,
        saved=other.passes - one.passes,
        device=one.device - other.device,
        reading=one.reading - other.reading,
        store=one.store - other.store,
    )


def _seconds(tally: Tally, rates: Rates) -> tuple[float, float, bool]:
    """Return the seconds on the device, the seconds elsewhere, and whether some act could not be measured."""
    taken = {
        act: line.seconds(images=tally.images[act], calls=tally.calls[act])
        for act, line in rates.lines.items()
        if act in tally.calls
    }
    elsewhere = sum(seconds for act, seconds in taken.items() if act.what in _ELSEWHERE)
    return sum(taken.values()) - elsewhere, elsewhere, tally.calls.keys() != taken.keys()


_GIB = 2**30
_DAY = 86_400
_SLACK = 2.0  # time limit of each Slurm job, in multiples of the longest run


def plan_tables(bill: CostEstimate, *, width: int) -> list[RichTable]:
    """Return tables with a line for each method and backbone, one for what they share, and the sum."""
    lines = [[method, backbone, *_cells(cost)] for (method, backbone), cost in bill.costs.items()]
    if bill.shared.scored:
        lines.append(["filling the store", "", *_cells(bill.shared)])
    lines.append(["in all", "", *_cells(bill.total)])
    columns = [Column(heading, words=True) for heading in ("method", "backbone")]
    columns += map(Column, ("runs", "trained images", "scored images", "saved by the store", "time"))
    table = Table("plan", columns, [list(map(Cell, line)) for line in lines], repeated=2)
    return terminal(table, width=width)


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
    if bill.held.total:
        said.append(f"memory   {bill.held}, in the largest model; activations, gradients and optimizer come on top")
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
