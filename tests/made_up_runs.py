"""Folders of finished runs that nobody trained: the figures are the test's own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from peft_vision.runs.run_records import Result

IMAGES = {"train": 900, "val": 100, "test": 1000}
SHIFT_IMAGES = 500
DATA = {"source": "mine", "fingerprint": "f", "corrupt_images_skipped": 0}


def write_run(
    runs: Path,
    *,
    method: str = "full",
    seed: int = 0,
    lr: float = 0.001,
    val: float | None = 0.5,
    loss: float | None = None,
    test: float | None = 0.5,
    ood: Mapping[str, float | Mapping[str, float]] | None = None,
    probe: Mapping[str, float] | None = None,
    curve: Mapping[float, tuple[float, float]] | None = None,
    alpha: float | None = None,
    masked: bool = False,
    data: str = "digits",
    backbone: str = "vit_micro",
    source: str = "digits: 900 train + 100 val + 1000 test images of 10 classes",
    config: Mapping[str, Any] | None = None,
    decay: float = 0.01,
    group: str | None = None,
    stage: str | None = None,
    choice: Mapping[str, Any] | None = None,
    epochs: list[tuple[float, float]] | None = None,
    parameters: int = 12_345,
    peak_mib: float | None = None,
    train_seconds: float | None = None,
    state_mib: float | None = None,
    solved: Sequence[Mapping[str, float]] = (),
) -> Path:
    """`loss`: on validation. `ood`: the accuracy on each set, or on each of its shifts. `probe`: accuracies before all
    else trained, by metric. `curve`: accuracy ID and OOD by alpha. `masked`: whether classes that a set lacks cannot be
    predicted. `config`: groups in place of the usual ones. `group`: of data sets; `stage`: of a sweep that tunes,
    `choice` what it wrote. `epochs`: training loss and validation accuracy of each. `solved`: what a solver tried, of
    which it chose the last."""
    mark = f"{lr:g}" + (f"+{decay:g}" if decay != 0.01 else "") + ("" if stage is None else f"+{stage}")
    folder = runs / f"{method}-{backbone}-{data.replace('/', '_')}-s{seed}-{mark}"
    folder.mkdir(parents=True)
    metrics = {} if test is None else {"test/accuracy": test, "test/calibration_error": 0.02}
    metrics |= {} if val is None else {"val/accuracy": val}
    metrics |= {} if loss is None else {"val/loss": loss}
    images = {split: count for split, count in IMAGES.items() if split != "test" or stage != "tune"}
    settings = {**usual_config(lr, decay), **(config or {})}
    if stage is not None:
        settings["data"] = {"_target_": "peft_vision.data.digits.Digits", "stage": stage}
    if probe:
        metrics |= {f"probe/{name}": value for name, value in probe.items() if not name.startswith("ood/")}
    selection = None
    if solved:
        chosen = {key: value for key, value in solved[-1].items() if "/" not in key}
        selection = {"group": "optimizer", "chosen": chosen, "tried": list(solved), "settings": len(solved), "rule": ""}
    result = contents(
        name=folder.name,
        choices={"method": method, "backbone": backbone, "data": data, "task": "train"},
        seed=seed,
        data={**DATA, "source": source, "images": images, "group": group},
        parameters={"method": parameters, "head": 1_290, "backbone": 1_019_520},
        selection=selection,
        metrics=metrics,
        test_reads=0 if test is None else 1,
        peak_mib=peak_mib,
        train_seconds=train_seconds,
        optimizer=None if state_mib is None else {"state_bytes": state_mib * 2**20, "gradient_bytes": 0},
        config={"seed": seed, "runs": str(runs), "device": "auto", **settings},
    )
    (folder / "result.json").write_text(json.dumps(result))
    if choice is not None:
        (folder / "choice.json").write_text(json.dumps({**CHOICE, **choice}))
    if epochs is not None:
        rows = [
            {"epoch": number + 1, "train/loss": loss, "lr": lr, "val/accuracy": accuracy}
            for number, (loss, accuracy) in enumerate(epochs)
        ]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if ood is not None:
        scored, images = scores(ood)
        scored |= {f"probe/{name}": value for name, value in (probe or {}).items() if name.startswith("ood/")}
        rows = [
            {"alpha": at, "val/accuracy": within, "test/accuracy": within, "ood/mean/accuracy": beyond}
            for at, (within, beyond) in (curve or {}).items()
        ]
        interpolation = {"rows": rows, "chosen": alpha, "rule": "made up"} if curve else None
        entry = {"mark": "", "shifts": 1, "images": SHIFT_IMAGES, "reads": 1, "scores": {}}
        splits = {shift: {**entry, "fingerprint": shift, "missing_are_predictable": not masked} for shift in images}
        record = {"splits": splits, "metrics": scored, "images": images, "interpolation": interpolation}
        (folder / "ood.json").write_text(json.dumps(record))
    return folder


CHOICE = {
    "settings": 6,
    "runs": 6,
    "rule": "made up",
    "selection": "validation",
    "validation": 0.5,
    "chosen": {},
    "superseded": False,
    "tuned": [],
    "setting": "",
}


def made_up_result(**fields: Any) -> Result:
    """The result of a run that scored nothing, but for these fields."""
    return Result(**contents(**fields))


def contents(**fields: Any) -> dict[str, Any]:
    """What such a result.json holds, whether or not it is a fit one."""
    return {
        "name": "mine",
        "identity": "f",
        "choices": {"method": "full", "backbone": "vit_micro", "data": "digits"},
        "seed": 0,
        "data": {**DATA, "images": IMAGES},
        "backbone": {"name": "vit_tiny_patch16_224"},
        "parameters": {"method": 12_345, "head": 1_290, "backbone": 1_019_520},
        "features": 128,
        "selection": None,
        "metrics": {},
        "store": {"splits": {}},
        "images_per_second": 0.0,
        "peak_mib": None,
        "wall_seconds": 3.0,
        "environment": {"peft-vision": "0.1.0", "git_commit": None},
        "config": {"data": {}},
        **fields,
    }


def write_attempt(
    runs: Path,
    *,
    method: str = "full",
    seed: int = 0,
    lr: float = 0.001,
    data: str = "digits",
    backbone: str = "vit_micro",
    error: str | None = None,
) -> Path:
    """A run without a result: failed, with `error`, or else unfinished."""
    folder = runs / f"{method}-{backbone}-{data.replace('/', '_')}-s{seed}-{lr:g}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, **usual_config(lr, 0.01)}))
    (folder / "metrics.jsonl").write_text("")
    if error is None:
        (folder / "state.pt").write_bytes(b"")
    else:
        (folder / "failed.json").write_text(json.dumps({"error": error, "traceback": ""}))
    return folder


def scores(ood: Mapping[str, float | Mapping[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
    """Metrics and images of `ood.json`."""
    metrics: dict[str, float] = {}
    images: dict[str, int] = {}
    lowest: list[float] = []
    for name, found in ood.items():
        if isinstance(found, Mapping):
            metrics |= {f"ood/{name}/{shift}/accuracy": accuracy for shift, accuracy in found.items()}
            metrics[f"ood/{name}/accuracy"] = sum(found.values()) / len(found)
            metrics[f"ood/{name}/worst/accuracy"] = min(found.values())
            images |= {f"{name}/{shift}": SHIFT_IMAGES for shift in found}
            lowest.append(min(found.values()))
        else:
            metrics[f"ood/{name}/accuracy"] = found
            images[name] = SHIFT_IMAGES
            lowest.append(found)
    metrics["ood/mean/accuracy"] = sum(metrics[f"ood/{name}/accuracy"] for name in ood) / len(ood)
    metrics["ood/worst/accuracy"] = min(lowest)
    return metrics, images


def usual_config(lr: float, decay: float) -> dict[str, Any]:
    """Groups of which `lr` is the only value that a test varies."""
    return {
        "method": {"_target_": "peft_vision.method.linear.Linear", "layers": "all", "lr": {"adamw": lr, "sgd": lr}},
        "optimizer": {"_target_": "peft_vision.optimizer.base.AdamW", "lr": lr, "weight_decay": decay},
        "trainer": {"_target_": "peft_vision.training.trainer.Trainer", "epochs": 3, "eval_batch_size": 256},
        "tracker": {"_target_": "peft_vision.tracker.trackers.NoTracker"},
    }
