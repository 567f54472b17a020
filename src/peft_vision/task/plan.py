"""What a run, or a whole sweep, will cost before it starts."""

import logging
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from peft_vision.bench.setting import Setting
from peft_vision.config import component
from peft_vision.console import Console
from peft_vision.distributed import World, choose_device
from peft_vision.environment import environment
from peft_vision.experiment import Experiment
from peft_vision.plan.bill import bill
from peft_vision.plan.demand import Demand, demands, kind
from peft_vision.plan.rates import Rates, between, measure
from peft_vision.plan.reading import seconds_for_a_picture
from peft_vision.plan.words import notes, plan_tables, slurm_line
from peft_vision.progress import track
from peft_vision.task.train import Train

_log = logging.getLogger("peft_vision")
_WIDEST = 200


@component
class Plan(Train):
    """`rate`: images per second that the bare backbone passes without gradients where the runs will take place;
    None: as here. `warmup`, `repeats`: of each measurement; `images`: at most in a batch of it, None: as the runs
    have them. `devices`: that will work at a time."""

    rate: PositiveFloat | None
    warmup: NonNegativeInt
    repeats: PositiveInt
    images: PositiveInt | None
    devices: PositiveInt

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Of one run."""
        self.tell([(Experiment.of(config, choices), 1.0)])

    def tell(self, runs: Iterable[tuple[Experiment, float]]) -> None:
        """Prints the plan of these runs, each so many times. Measures first."""
        found = demands(runs)
        done = sum(demand.done for demand in found)
        found = [demand for demand in found if demand.left > 0]
        if not found:
            _log.info("%-9s nothing to do: all %.0f runs are done", "plan", done)
            return
        device = choose_device(found[0].experiment.device, local_rank=0)
        rates = self._rates(found, World(rank=0, size=1, device=device))
        reading: dict[str, float | None] = {}
        for demand in found:
            if (data := demand.experiment.choices["data"]) not in reading:
                reading[data] = seconds_for_a_picture(demand.experiment)
        here = 1 / rates[0].forward
        faster = 1.0 if self.rate is None else self.rate / here
        its_bill = bill(found, rates, reading, faster=faster)
        console = Console()
        console = console if console.is_terminal else Console(width=_WIDEST)
        for table in plan_tables(its_bill, width=console.width):
            console.print(table, "")
        facts = environment(device, 1)
        name = f"{facts['device']}, {facts['threads']} threads" if device.type == "cpu" else f"{facts['device']}"
        disk_gib = found[0].experiment.features.disk_gib
        name += f", where {found[0].experiment.choices['backbone']} passes {here:,.3g} images per second"
        for line in notes(its_bill, done=done, device=name, faster=faster, disk_gib=disk_gib, devices=self.devices):
            console.print(line, soft_wrap=True)
        line = slurm_line(its_bill, sys.argv[1:], devices=self.devices)
        console.print(f"slurm    {line}", soft_wrap=True)

    def _rates(self, found: list[Demand], here: World) -> list[Rates]:
        """Of each; measured once for each kind, and where the store is read for the fewest and the most classes,
        between which a head's time rises evenly."""
        classes: dict[str, list[int]] = {}
        for demand in found:
            classes.setdefault(kind(demand.experiment), []).append(demand.extent.classes)
        first = {kind(demand.experiment): demand for demand in reversed(found)}
        book: dict[str, tuple[tuple[int, Rates], ...]] = {}
        for key, demand in track(first.items(), label="measuring", total=len(first), unit="kinds of runs"):
            most, fewest = max(classes[key]), min(classes[key])
            rates = self._measured(demand, most, here)
            book[key] = ((most, rates),)
            if fewest < most and any(phase.stored for phase in rates.phases):
                book[key] = ((fewest, self._measured(demand, fewest, here)), *book[key])
        return [between(book[kind(demand.experiment)], demand.extent.classes) for demand in found]

    def _measured(self, demand: Demand, num_classes: int, here: World) -> Rates:
        experiment = demand.experiment
        size = experiment.backbone.preprocessing().size
        return measure(
            experiment,
            Setting(
                # random weights take as long
                backbone=replace(experiment.backbone, pretrained=False, checkpoint=None, img_size=size),
                head=experiment.head,
                optimizer=experiment.optimizer,
                trainer=replace(
                    experiment.trainer,
                    batch_size=min(
                        self.images or math.inf, experiment.trainer.batch_size, demand.extent.images["train"]
                    ),
                ),
                features=experiment.features,
                world=here,
                seed=experiment.seed,
                num_classes=num_classes,
                warmup=self.warmup,
                repeats=self.repeats,
                steps=1,
            ),
        )
