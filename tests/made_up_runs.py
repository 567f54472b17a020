"""Folders of finished runs that nobody trained: the figures are the test's own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IMAGES = {"train": 900, "val": 100, "test": 1000}
SHIFT_IMAGES = 500


def write_run(
    runs: Path,
    *,
    method: str = "full",
    seed: int = 0,
    lr: float = 0.001,
    val: float | None = 0.5,
    test: float = 0.5,
    ood: Mapping[str, float | Mapping[str, float]] | None = None,
    probe: Mapping[str, float] | None = None,
    curve: Mapping[float, tuple[float, float]] | None = None,
    alpha: float | None = None,
    masked: bool = False,
    data: str = "digits",
    backbone: str = "vit_micro",
    source: str = "digits: 900 train + 100 val + 1000 test images of 10 classes",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """`ood`: the accuracy on each set, or on each of its shifts. `probe`: accuracies before all else trained, by
    metric. `curve`: accuracy ID and OOD by alpha. `masked`: whether classes that a set lacks cannot be predicted.
    `config`: groups in place of the usual ones."""
    folder = runs / f"{method}-{backbone}-{data}-s{seed}-{lr:g}"
    folder.mkdir(parents=True)
    metrics = {"test/accuracy": test, "test/calibration_error": 0.02}
    metrics |= {} if val is None else {"val/accuracy": val}
    result = {
        "name": folder.name,
        "choices": {"method": method, "backbone": backbone, "data": data, "task": "train"},
        "seed": seed,
        "data": {"source": source, "images": IMAGES},
        "backbone": {"name": "vit_tiny_patch16_224"},
        "parameters": {"method": 12_345, "head": 1_290, "backbone": 1_019_520},
        "metrics": metrics,
        "config": {"seed": seed, "runs": str(runs), "device": "auto", **usual_config(lr), **(config or {})},
    }
    if probe:
        metrics |= {f"probe/{name}": value for name, value in probe.items() if not name.startswith("ood/")}
    (folder / "result.json").write_text(json.dumps(result))
    if ood is not None:
        scored, images = scores(ood)
        scored |= {f"probe/{name}": value for name, value in (probe or {}).items() if name.startswith("ood/")}
        rows = [
            {"alpha": at, "val/accuracy": within, "test/accuracy": within, "ood/mean/accuracy": beyond}
            for at, (within, beyond) in (curve or {}).items()
        ]
        interpolation = {"rows": rows, "chosen": alpha, "rule": "made up"} if curve else None
        splits = {shift: {"fingerprint": shift, "missing_are_predictable": not masked} for shift in images}
        record = {"splits": splits, "metrics": scored, "images": images, "interpolation": interpolation}
        (folder / "ood.json").write_text(json.dumps(record))
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


def usual_config(lr: float) -> dict[str, Any]:
    """Groups of which `lr` is the only value that a test varies."""
    return {
        "method": {"_target_": "peft_vision.method.linear.Linear", "layers": "all", "lr": {"adamw": lr, "sgd": lr}},
        "optimizer": {"_target_": "peft_vision.optimizer.adamw.AdamW", "lr": lr, "weight_decay": 0.01},
        "trainer": {"_target_": "peft_vision.trainer.Trainer", "epochs": 3, "eval_batch_size": 256},
        "tracker": {"_target_": "peft_vision.tracker.NoTracker"},
    }
