"""This module measures time and memory of each method's training step, against a forward pass and full fine-tuning."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from peft_vision.backbone.load import Backbone
from peft_vision.core.config import ConfigError, build_all, component, shortened
from peft_vision.core.distributed import World, choose_device
from peft_vision.core.output import Console
from peft_vision.core.progress import track
from peft_vision.costs.ladder import FORWARD, Outcome, ladder, markdown_table, rich_table
from peft_vision.costs.measure import Failure, apart, measure_forward, measure_step
from peft_vision.costs.setting import BenchSetting, conditions, in_words, method_configs
from peft_vision.features.store import Features
from peft_vision.head.base import Head
from peft_vision.objective.base import Objective
from peft_vision.optimizer.base import Optimizer, Stepper
from peft_vision.runs.run import place, writing
from peft_vision.task.base import Task
from peft_vision.training.trainer import Trainer

_KINDS = {
    "backbone": Backbone,
    "objective": Objective,
    "head": Head,
    "optimizer": Optimizer,
    "trainer": Trainer,
    "features": Features,
}
_WIDEST = 200


@component
class Bench(Task):
    """A task that measures a training step of each method. `methods`: None for all that exist. `weights`: whether the
    backbone's weights are loaded; else they are random. `warmup`, `repeats`, `steps`: see `BenchSetting`."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)] | None
    num_classes: Annotated[int, Field(ge=2)]
    weights: bool
    warmup: PositiveInt
    repeats: PositiveInt
    steps: PositiveInt

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Measure, print and write the table; then raise ConfigError if a method could not be measured."""
        setting = self._setting(config)
        methods = method_configs(self.methods, config, choices["method"])
        key = "runs" if config["out"] is None else "out"
        folder = Path(config["out"] or f"{config['runs']}/.bench").expanduser()
        with writing(folder, key=key):
            folder.mkdir(parents=True, exist_ok=True)
        outcomes = _measured(setting, methods)
        failed = [name for name, outcome in outcomes.items() if isinstance(outcome, Failure)]
        size = None if FORWARD in failed else outcomes[FORWARD].parameters["backbone"]
        facts = conditions(setting, weights=self.weights, num_parameters=size)
        records = ladder(outcomes)
        texts = {
            "json": json.dumps({**facts, "methods": records, "config": shortened(config)}, indent=2) + "\n",
            "md": f"    {facts['command']}\n\n{in_words(facts)}\n\n{markdown_table(records)}",
        }
        stem = f"{choices['backbone'].replace('/', '_')}-b{facts['batch_size']}-{setting.world.device.type}"
        for suffix, text in texts.items():
            place(folder / f"{stem}.{suffix}", lambda path, text=text: path.write_text(text), key=key)
        console = Console(width=_WIDEST)  # the table keeps its width in any terminal
        console.print(in_words(facts), soft_wrap=True)
        console.print(rich_table(records))
        console.print(f"written to {folder / stem}.md and .json", soft_wrap=True)
        if failed:
            raise ConfigError(f"{len(failed)} of {len(outcomes)} not measured: {', '.join(failed)}; the table says why")

    def _setting(self, config: Mapping[str, Any]) -> BenchSetting:
        """Build the setting. ConfigError for faults that show before anything is measured."""
        if missing := [f"{group}: missing" for group in _KINDS if group not in config]:
            raise ConfigError("\n".join(missing))
        components = build_all(config, _KINDS)
        if not isinstance(components["optimizer"], Stepper):
            name = type(components["optimizer"]).__name__
            raise ConfigError(f"optimizer: {name} solves for a head and makes no steps; use optimizer=adamw")
        components["trainer"].check(components["optimizer"], group="optimizer", processes=1)
        device = choose_device(config["device"], local_rank=0)
        backbone: Backbone = components["backbone"]
        backbone.check()
        if self.weights:
            backbone.load()  # here, so that a download happens once and a faulty file is reported once
        else:
            size = backbone.preprocessing().size
            components["backbone"] = replace(backbone, pretrained=False, checkpoint=None, img_size=size)
        return BenchSetting(
            **components,
            world=World(rank=0, size=1, device=device),
            seed=config["seed"],
            num_classes=self.num_classes,
            warmup=self.warmup,
            repeats=self.repeats,
            steps=self.steps,
        )


def _measured(setting: BenchSetting, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Outcome]:
    """Measure the forward pass and every method, one after the other, each in its own process."""
    jobs = {FORWARD: (measure_forward, setting)}
    jobs |= {name: (measure_step, setting, method) for name, method in methods.items()}
    named = track(jobs.items(), label="measuring", total=len(jobs), unit="methods")
    return {name: apart(*job) for name, job in named}
