"""What runs cost: passes through the backbone, seconds, bytes; what runs share is counted once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft_vision.plan.demand import Demand
from peft_vision.plan.rates import Rates

_GIB = 2**30
_RECORDS = 64 * 2**10  # bytes of a run's folder beside its adapter: config, metrics, result, log
_START = 0.6  # seconds of a process that are neither its model nor its work: benchmarks/sweep_overhead.py


@dataclass
class Cost:
    """`runs`: that are left to do. Images, each pass counted: `trained`, with gradients; `scored`, without;
    `observed`, to fill the store; `saved`, that the store makes unnecessary. Seconds: `device`, which another device
    may take less of; `reading` pictures; `starting` processes and models. `disk`: bytes of runs; `store`: of what is
    frozen. `unmeasured`: whether a solver is among them, which takes as long as the data make it."""

    runs: float = 0.0
    trained: float = 0.0
    scored: float = 0.0
    observed: float = 0.0
    saved: float = 0.0
    device: float = 0.0
    reading: float = 0.0
    starting: float = 0.0
    disk: float = 0.0
    store: float = 0.0
    unmeasured: bool = False

    @property
    def seconds(self) -> float:
        return self.device + self.reading + self.starting

    def __add__(self, other: "Cost") -> "Cost":
        values = {name: value + vars(other)[name] for name, value in vars(self).items() if name != "unmeasured"}
        return Cost(**values, unmeasured=self.unmeasured or other.unmeasured)


@dataclass
class Bill:
    """`costs`: by method and backbone, without what fills the store, which is in `shared`. `longest`: seconds of the
    run that takes longest. `unread`: data sets that are not here, whose pictures take an unknown time to read."""

    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    shared: Cost = field(default_factory=Cost)
    longest: float = 0.0
    unread: list[str] = field(default_factory=list)

    @property
    def total(self) -> Cost:
        return sum(self.costs.values(), self.shared)


def bill(
    demands: Sequence[Demand], rates: Sequence[Rates], reading: Mapping[str, float | None], *, faster: float
) -> Bill:
    """`demands`: of which something is left; `rates`: of each; `reading`: seconds for a picture, by data set;
    `faster`: the device that will do it than the one that was measured."""
    whole = Bill()
    fills: dict[str, Cost] = {}
    for demand, its in zip(demands, rates, strict=True):
        choices, data = demand.experiment.choices, demand.experiment.choices["data"]
        cost, fill = _of_one_run(demand, its)
        if reading[data] is None:
            whole.unread += [data] if data not in whole.unread else []
        else:
            cost.reading = reading[data] * sum(demand.extent.images.values())
        cost.device /= faster
        whole.longest = max(whole.longest, cost.seconds + (fill.device / faster if fill else 0.0))
        key = (choices["method"], choices["backbone"])
        whole.costs[key] = whole.costs.get(key, Cost()) + _times(cost, demand.left)
        if fill is not None:
            fill.device /= faster
            stored = _stored_by(demand)
            if stored not in fills or fills[stored].device < fill.device:  # one pass serves whoever reads less
                fills[stored] = fill
    whole.shared = sum(fills.values(), Cost())
    return whole


def _times(cost: Cost, runs: float) -> Cost:
    values = {name: value * runs for name, value in vars(cost).items() if name != "unmeasured"}
    return Cost(**{**values, "runs": runs}, unmeasured=cost.unmeasured)


def _of_one_run(demand: Demand, rates: Rates) -> tuple[Cost, Cost | None]:
    """Of a run, and of the pass that fills the store for it and others; None where nothing is stored."""
    images, epochs = demand.extent.images, demand.experiment.trainer.epochs
    train, val, test = (images.get(split, 0) for split in ("train", "val", "test"))
    cost = Cost(starting=rates.setup + _START, disk=4 * rates.trained + _RECORDS)
    for phase in rates.phases:
        looked = epochs if phase.step is not None else 1
        cost.unmeasured |= phase.step is None
        steps = epochs * -(-train // demand.experiment.trainer.batch_size)
        cost.device += epochs * train * (phase.step or 0.0) + steps * phase.update + looked * val * phase.score
        if phase.stored:
            cost.saved += looked * (train + val)
        else:
            cost.trained += looked * train
            cost.scored += looked * val
    last = rates.phases[-1]
    reads = 1 + (demand.experiment.method.probe_first and len(rates.phases) > 1)
    cost.device += (val + reads * test) * last.score
    if not last.stored:
        cost.scored += val + reads * test
    if rates.observe is None:
        return cost, None
    views = max(1, demand.experiment.features.views)
    shared = views * train + val
    if _fits(demand, test * rates.stored_bytes):
        shared += test
        cost.saved += test
    else:  # computed again by each run
        cost.device += test * rates.observe
        cost.scored += test
    return cost, Cost(observed=shared, device=shared * rates.observe, store=shared * rates.stored_bytes)


def _fits(demand: Demand, num_bytes: float) -> bool:
    features = demand.experiment.features
    return num_bytes <= max(features.memory_gib, features.disk_gib) * _GIB


def _stored_by(demand: Demand) -> str:
    """Equal for runs that read the same images through the same backbone."""
    config = demand.experiment.config
    return json.dumps([config["backbone"], config["data"], config["features"]["dtype"]], sort_keys=True, default=str)
