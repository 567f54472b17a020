"""This module describes the conditions that the benchmark's figures depend on, as a record for JSON and in words."""

import shlex
from collections.abc import Mapping
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from peft_vision.bench.setting import BenchSetting
from peft_vision.core.environment import environment

_FOLDERS = ("out=", "runs=", "features.folder=")  # belong to a machine and change no figure


def conditions(setting: BenchSetting, *, weights: bool, num_parameters: int | None) -> dict[str, Any]:
    """Return the conditions as a record. `weights`: whether weights were loaded; `num_parameters`: of the backbone,
    None if it could not be measured."""
    device, trainer = setting.world.device, setting.trainer
    return {
        "command": shlex.join(["peft-vision", *filter(_lasting, HydraConfig.get().overrides.task)]),
        "backbone": setting.backbone.name,
        "backbone_parameters": num_parameters,
        "weights": "loaded" if weights else "random",
        "image_size": setting.backbone.preprocessing().size,
        "batch_size": trainer.batch_size,
        "precision": {torch.float32: "fp32", torch.bfloat16: "bf16"}[trainer.computes_in(device)],
        "optimizer": type(setting.optimizer).__name__,
        "rounds": setting.repeats,
        "steps_per_round": setting.steps,
        "environment": environment(device, 1),
    }


def in_words(facts: Mapping[str, Any]) -> str:
    """Describe the conditions in two sentences."""
    machine = facts["environment"]
    size = facts["backbone_parameters"]
    parameters = f", {size:,} parameters" if size else ""
    device = f"CPU, threads: {machine['threads']}" if machine["device"] == "cpu" else machine["device"]
    steps = facts["steps_per_round"]
    each = f" of {steps} steps each" if steps > 1 else ""
    return (
        f"{facts['backbone']}{parameters}, {facts['weights']} weights, {facts['image_size']} px, batches of "
        f"{facts['batch_size']}, {facts['precision']}, {facts['optimizer']}; {device}, torch {machine['torch']}. "
        f"Medians of {facts['rounds']} rounds{each}."
    )


def _lasting(override: str) -> bool:
    return not override.lstrip("+").startswith(_FOLDERS)
