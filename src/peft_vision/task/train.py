"""Train, then score the test set once: the main job."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from time import monotonic
from typing import Any

import torch

from peft_vision.adapter import Recipe, load_tuned, write_adapter
from peft_vision.backbone.weights import weights_hash
from peft_vision.config import ConfigError, component
from peft_vision.distributed import World, world
from peft_vision.environment import environment, peak_mib
from peft_vision.experiment import Experiment
from peft_vision.model import Model
from peft_vision.report.summary import print_summary
from peft_vision.run import Run
from peft_vision.seeding import derive
from peft_vision.task.base import Task
from peft_vision.trainer import Standing

logger = logging.getLogger("peft_vision")


@component
class Train(Task):
    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float:
        """Returns the accuracy on the validation split, or on test where there is none to choose by."""
        experiment = Experiment.build(config, choices)
        run = experiment.run
        with world(experiment.device) as here, ExitStack() as held:
            if here.is_main:
                held.enter_context(run.locked())
            result = here.agree(run.read_result())
            if result is None:
                result = _train(experiment, run, here)
            elif here.is_main:
                logger.info("done before, with the same config; this is its result")
            if here.is_main:
                print_summary(result, run.folder)
        metrics = result["metrics"]
        return metrics.get("val/accuracy", metrics["test/accuracy"])


def _train(experiment: Experiment, run: Run, here: World) -> dict[str, Any]:
    """From the saved state, or from the start, to a result. Every process computes, the main one writes."""
    started = monotonic()
    trainer, workers = experiment.trainer, experiment.data.workers
    preprocessing = experiment.backbone.preprocessing()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(experiment.seed, "backbone"))  # for a backbone of random weights
        vit = experiment.backbone.load()
    splits = experiment.data.load(preprocessing)
    recipe = Recipe(
        method=dict(experiment.config["method"]),
        head=dict(experiment.config["head"]),
        classes=splits.classes,
        preprocessing=preprocessing,
        backbone={"name": experiment.backbone.name, "hash": weights_hash(vit)},
    )
    backbone_size = sum(parameter.numel() for parameter in vit.parameters())
    model = recipe.assemble(vit, seed=derive(experiment.seed, "initialisation"))
    standing = _resume(model, run, recipe.backbone["hash"])
    started -= standing.wall_seconds
    model.to(here.device)
    counts = model.parameter_counts()
    images = {"train": splits.train, "val": splits.val, "test": splits.test}
    images = {split: part for split, part in images.items() if part is not None}
    sizes = {split: len(part) for split, part in images.items()}
    record = {
        "name": experiment.name,
        "identity": experiment.identity,
        "choices": dict(experiment.choices),
        "seed": experiment.seed,
        "parameters": {"method": counts.method, "head": counts.head, "backbone": backbone_size},
        "data": {
            "source": splits.source,
            "fingerprint": splits.fingerprint,
            "images": sizes,
            "classes": len(splits.classes),
            "corrupt_images_skipped": splits.skipped,
        },
        "backbone": recipe.backbone,
        "preprocessing": preprocessing.record(),
    }
    with ExitStack() as held:
        log = None
        if here.is_main:
            run.write_config(experiment.config)
            run.keep_metrics(standing.epochs)
            _announce(record, run, standing, trainer.epochs, preprocessing=str(preprocessing))
            log = held.enter_context(
                experiment.tracker.open(
                    run_id=experiment.identity,
                    name=experiment.name,
                    group=None,
                    tags=[experiment.choices[group] for group in ("method", "backbone", "data")],
                    config=experiment.config,
                    folder=run.folder,
                )
            )

        def after_epoch(metrics: dict[str, float]) -> None:
            if log is not None:
                run.append_metrics(metrics)
                log.metrics(metrics, step=int(metrics["epoch"]))

        def save(standing: Standing) -> None:
            standing.wall_seconds = monotonic() - started
            if here.is_main:
                run.write_state(
                    {
                        "backbone_hash": recipe.backbone["hash"],
                        "tuned": model.tuned_state(),
                        "standing": vars(standing),
                    }
                )

        trainer.fit(
            model,
            splits,
            optimizer=experiment.optimizer,
            schedule=experiment.schedule,
            seed=experiment.seed,
            workers=workers,
            world=here,
            standing=standing,
            record=after_epoch,
            save=save,
        )
        metrics: dict[str, float] = {}
        for split in images.keys() - {"train"}:
            metrics |= trainer.evaluate(model, images[split], split, workers=workers, world=here)
        result = {
            **record,
            "metrics": dict(sorted(metrics.items())),
            "test_reads": 1,
            "epochs": trainer.epochs,
            "images_per_second": trainer.epochs * sizes["train"] / standing.train_seconds,
            "peak_mib": max(here.gather(peak_mib(here.device))),
            "wall_seconds": monotonic() - started,
            "environment": environment(here.device, here.size),
            "config": experiment.config,
        }
        if log is not None:
            run.place_adapter(lambda path: write_adapter(model, path))
            log.summary(
                {**metrics, **{key: result[key] for key in ("images_per_second", "peak_mib", "wall_seconds")}}
            )
            run.write_result(result)
    return result


def _resume(model: Model, run: Run, backbone_hash: str) -> Standing:
    """Puts the saved state, if there is one, into `model`."""
    state = run.read_state()
    if state is None:
        return Standing()
    if state["backbone_hash"] != backbone_hash:
        raise ConfigError(
            f"the backbone's weights are not those that {run.folder} began with; restore them, or delete the folder"
        )
    load_tuned(model, state["tuned"])
    return Standing(**state["standing"])


def _announce(
    record: Mapping[str, Any], run: Run, standing: Standing, epochs: int, *, preprocessing: str
) -> None:
    """What is about to happen, before it takes its time."""
    parameters, data = record["parameters"], record["data"]
    lines = {
        "run": run.folder,
        "backbone": f"{record['backbone']['name']}, {parameters['backbone']:,} parameters",
        "images": preprocessing,
        "data": data["source"],
        "trains": f"{parameters['method']:,} of {record['choices']['method']}, {parameters['head']:,} of the head",
    }
    if standing.epochs:
        lines["resumes"] = f"after epoch {standing.epochs} of {epochs}"
    for label, text in lines.items():
        logger.info("%-9s %s", label, text)
