"""This module measures time and memory of each method's training step, against a forward pass and full fine-tuning.

`ladder` makes the table of a comparison: the forward pass, the probe, the other methods by the time of a step in
forward passes, and full fine-tuning.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt
from rich.table import Table

from peft_vision.backbone.load import Backbone
from peft_vision.core.config import ConfigError, build_all, component, shortened
from peft_vision.core.distributed import World, choose_device
from peft_vision.core.output import Console
from peft_vision.core.progress import track
from peft_vision.costs.measure import Failure, Measured, apart, measure_forward, measure_step
from peft_vision.costs.setting import FULL, BenchSetting, conditions, in_words, method_configs
from peft_vision.features.store import Features
from peft_vision.head.base import Head
from peft_vision.objective.base import Objective
from peft_vision.optimizer.base import Optimizer, Stepper
from peft_vision.runs.run import place, writing
from peft_vision.task.base import Task
from peft_vision.training.trainer import Trainer

FORWARD = "forward pass"
_PLACES = {FORWARD: 0, "linear": 1, FULL: 3}  # the others lie between the probe and full fine-tuning
_COLUMNS = (
    "method",
    "parameters",
    "of the head",
    "step, ms",
    "/ forward",
    "/ full",
    "memory, MiB",
    "on the store, ms",
    "/ forward",
)
_FAULT = "not measured"

Outcome = Measured | Failure


def ladder(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Return a record of each outcome, ready for JSON, in the table's order; failures come last. `of_forward`: the time
    of a step divided by that of the forward pass in the same process; `of_full`: `of_forward` divided by that of full
    fine-tuning."""
    full = _per_forward(outcomes[FULL])
    records = [_record(name, outcome, full) for name, outcome in outcomes.items()]
    return sorted(records, key=_order)


def rich_table(records: list[Mapping[str, Any]]) -> Table:
    """Return the table for a terminal."""
    table = Table.grid(padding=(0, 2, 0, 0))
    columns = _columns(records)
    for column in columns:
        table.add_column(justify="left" if column in ("method", _FAULT) else "right", no_wrap=column != _FAULT)
    table.add_row(*columns)
    for record in records:
        table.add_row(*_cells(record))
    return table


def markdown_table(records: list[Mapping[str, Any]]) -> str:
    """Return the table in Markdown."""
    columns = _columns(records)
    rows = [columns, ["---", *["---:"] * (len(columns) - 1)], *([*_cells(record)] for record in records)]
    width = len(columns)
    lines = ([cell.replace("|", "\\|") for cell in row] + [""] * (width - len(row)) for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _columns(records: list[Mapping[str, Any]]) -> list[str]:
    return [*_COLUMNS, *([_FAULT] if any("reason" in record for record in records) else [])]


def _per_forward(outcome: Outcome) -> float | None:
    measured = isinstance(outcome, Measured) and "step" in outcome.seconds
    return outcome.seconds["step"] / outcome.seconds["forward"] if measured else None


def _record(name: str, outcome: Outcome, full: float | None) -> dict[str, Any]:
    record = {"method": name, **asdict(outcome)}
    if isinstance(outcome, Failure):
        return record
    step, stored, forward = _per_forward(outcome), outcome.seconds.get("stored_step"), outcome.seconds["forward"]
    return {
        **record,
        "of_forward": step,
        "of_full": step / full if step and full else None,
        "stored_of_forward": stored / forward if stored else None,
    }


def _order(record: Mapping[str, Any]) -> tuple[bool, int, float]:
    place = _PLACES.get(record["method"], 2)
    return "reason" in record, place, 0.0 if "reason" in record else record["of_forward"] or 0.0


def _cells(record: Mapping[str, Any]) -> list[str]:
    """Return the cells of a record in the order of the columns; blank where a figure has no meaning."""
    name = record["method"]
    if "reason" in record:
        return [name, *[""] * (len(_COLUMNS) - 1), record["reason"]]
    parameters, seconds = record["parameters"], record["seconds"]
    alone = name == FORWARD
    return [
        name,
        "" if alone else f"{parameters['method']:,}",
        "" if alone else f"{parameters['head']:,}",
        _milliseconds(seconds["forward" if alone else "step"]),
        _ratio(1.0 if alone else record["of_forward"]),
        _ratio(record["of_full"]),
        f"{record['memory_mib']:,.1f}",
        _milliseconds(seconds.get("stored_step")),
        _ratio(record["stored_of_forward"]),
    ]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:,.1f}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


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
