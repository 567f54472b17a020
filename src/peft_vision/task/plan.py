"""This module estimates what a run, or a whole sweep, will cost before it starts."""

import logging
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from peft_vision.core.config import component
from peft_vision.core.distributed import World, choose_device
from peft_vision.core.environment import environment
from peft_vision.core.output import Console
from peft_vision.core.progress import track
from peft_vision.costs.bill import Priced, bill, notes, plan_tables, slurm_line
from peft_vision.costs.expected import Expected, RunGroup, Stock, demands, kind, shelved
from peft_vision.costs.rates import Rates, between, measure, seconds_for_a_picture
from peft_vision.costs.setting import BenchSetting
from peft_vision.costs.walk import Anatomy, acts, anatomy
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.served import Served
from peft_vision.task.train import Train

_log = logging.getLogger("peft_vision")
_WIDEST = 200


@component
class Plan(Train):
    """A task that prints the estimated cost of runs. `rate`: images per second of a bare backbone's forward pass,
    without gradients, where the runs will take place; None: as measured here. `warmup`, `repeats`: of each measurement;
    `images`: the largest batch to measure, None: the runs' batch size. `devices`: how many will work at a time."""

    rate: PositiveFloat | None
    warmup: NonNegativeInt
    repeats: PositiveInt
    images: PositiveInt | None
    devices: PositiveInt
    plans: ClassVar[bool] = True

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Print the plan of one run."""
        experiment = Experiment.of(config, choices)
        self.tell([Expected(experiment, ended=Served().result(experiment) is not None)])

    def tell(self, runs: Iterable[Expected]) -> None:
        """Measure the steps of these runs and print their plan, or log that all of them are done."""
        runs = list(runs)
        ended = sum(run.times for run in runs if run.ended)
        found = demands(runs)
        if not found:
            _log.info("%-9s nothing to do: all %.0f runs are done", "plan", ended)
            return
        first = found[0].experiment
        device = choose_device(first.device, local_rank=0)
        here = World(rank=0, size=1, device=device)
        names = shelved(found, here)
        for demand in found:
            demand.keys = {split: names.get(key, key) for split, key in demand.keys.items()}
        priced = self._priced(found, here)
        passes = 1 / priced[0].rates.forward
        faster = 1.0 if self.rate is None else self.rate / passes
        estimate = bill(priced, Stock.of(first.features), faster=faster)
        console = Console()
        console = console if console.is_terminal else Console(width=_WIDEST)
        for table in plan_tables(estimate, width=console.width):
            console.print(table, "")
        facts = environment(device, 1)
        name = f"{facts['device']}, {facts['threads']} threads" if device.type == "cpu" else f"{facts['device']}"
        name += f", where {first.choices['backbone']} passes {passes:,.3g} images per second"
        arguments = {"ended": ended, "device": name, "faster": faster, "devices": self.devices}
        for line in notes(estimate, disk_gib=first.features.disk_gib, **arguments):
            console.print(line, soft_wrap=True)
        line = slurm_line(estimate, sys.argv[1:], devices=self.devices)
        console.print(f"slurm    {line}", soft_wrap=True)

    def _priced(self, found: list[RunGroup], here: World) -> list[Priced]:
        """Price each demand from rates that are measured once per kind of run. Where a head reads the feature store,
        they are measured for the fewest and the most classes and interpolated linearly in between."""
        kinds: dict[str, list[RunGroup]] = {}
        for demand in found:
            kinds.setdefault(kind(demand.experiment), []).append(demand)
        priced: dict[int, Priced] = {}
        reading: dict[str, float | None] = {}
        for same in track(kinds.values(), label="measuring", total=len(kinds), unit="kinds of runs"):
            model_facts, rates = self._measured(same, here)
            for demand, demand_rates in zip(same, rates, strict=True):
                data = demand.experiment.choices["data"]
                if data not in reading:
                    reading[data] = seconds_for_a_picture(demand)
                priced[id(demand)] = Priced(demand, model_facts, demand_rates, reading[data])
        return [priced[id(demand)] for demand in found]

    def _measured(self, same: list[RunGroup], here: World) -> tuple[Anatomy, list[Rates]]:
        """Measure the rates of demands of one kind."""
        experiment = same[0].experiment
        classes = [demand.content.extent.classes for demand in same]
        fewest, most = min(classes), max(classes)
        high = self._setting(same, most, here)
        model_facts = anatomy(high.model(experiment.method), experiment)
        wanted = frozenset().union(*(acts(model_facts, demand) for demand in same))
        rates = measure(experiment, wanted, high)
        if fewest == most or all(act.reads == "images" for act in wanted):
            return model_facts, [rates] * len(same)
        low = measure(experiment, wanted, self._setting(same, fewest, here))
        return model_facts, [between(low, rates, (count - fewest) / (most - fewest)) for count in classes]

    def _setting(self, same: list[RunGroup], num_classes: int, here: World) -> BenchSetting:
        experiment = same[0].experiment
        size = experiment.backbone.preprocessing().size
        images = max(demand.images["train"] for demand in same)
        return BenchSetting(
            # random weights take the same time
            backbone=replace(experiment.backbone, pretrained=False, checkpoint=None, img_size=size),
            objective=experiment.objective,
            head=experiment.head,
            optimizer=experiment.optimizer,
            trainer=replace(
                experiment.trainer,
                batch_size=min(self.images or math.inf, experiment.trainer.batch_size, images),
            ),
            features=experiment.features,
            world=here,
            seed=experiment.seed,
            num_classes=num_classes,
            warmup=self.warmup,
            repeats=self.repeats,
            steps=1,
        )
