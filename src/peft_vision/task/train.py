"""Train, then score the test set once: the main job."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from time import monotonic
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from peft_vision.adapter import Recipe, load_tuned, write_adapter
from peft_vision.backbone.weights import weights_hash
from peft_vision.config import ConfigError, component
from peft_vision.data.splits import Splits
from peft_vision.distributed import World, world
from peft_vision.environment import environment, forget_peak, peak_mib
from peft_vision.experiment import Experiment
from peft_vision.model import Model
from peft_vision.report.summary import print_summary
from peft_vision.run import Run
from peft_vision.seeding import derive
from peft_vision.task.base import Task
from peft_vision.tracker import Log
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
    forget_peak(here.device)
    vit = _backbone(experiment)
    splits = experiment.data.load(experiment.backbone.preprocessing())
    recipe = Recipe(
        method=dict(experiment.config["method"]),
        head=dict(experiment.config["head"]),
        classes=splits.classes,
        preprocessing=experiment.backbone.preprocessing(),
        backbone={"name": experiment.backbone.name, "hash": weights_hash(vit)},
    )
    backbone_size = sum(parameter.numel() for parameter in vit.parameters())
    model = recipe.assemble(vit, seed=derive(experiment.seed, "initialisation"))
    standing = _resume(model, splits, run)
    started -= standing.wall_seconds
    model.to(here.device)
    facts = _facts(experiment, model, splits, backbone_size)
    with ExitStack() as held:
        log = None
        if here.is_main:
            run.write_config(experiment.config)
            run.keep_metrics(standing.epochs)
            _announce(facts, model, run, standing, experiment.trainer.epochs)
            log = held.enter_context(_tracked(experiment, run))

        def after_epoch(metrics: dict[str, float]) -> None:
            if log is not None:
                run.append_metrics(metrics)
                log.metrics(metrics, step=int(metrics["epoch"]))

        def save(standing: Standing) -> None:
            standing.wall_seconds = monotonic() - started
            if here.is_main:
                state = {"tuned": model.tuned_state(), "standing": vars(standing), "origin": _origin(model, splits)}
                run.write_state(state)

        workers = experiment.data.workers
        experiment.trainer.fit(
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
        standing.test_reads += 1
        save(standing)  # before the test set is looked at: a run killed there looks again, and then says so
        metrics: dict[str, float] = {}
        for split, images in splits.parts().items():
            if split != "train":
                metrics |= experiment.trainer.evaluate(model, images, split, workers=workers, world=here)
        costs = {
            "images_per_second": standing.epochs * len(splits.train) / standing.train_seconds,
            "peak_mib": max(here.gather(peak_mib(here.device))),
            "wall_seconds": monotonic() - started,
        }
        result = {
            **facts,
            "metrics": metrics,
            "test_reads": standing.test_reads,
            **costs,
            "environment": environment(here.device, here.size),
            "config": experiment.config,
        }
        if log is not None:
            run.place_adapter(lambda path: write_adapter(model, path))
            log.summary({**metrics, **costs})
            run.write_result(result)
    return result


def _backbone(experiment: Experiment) -> VisionTransformer:
    """Loaded, or drawn from the run's seed where no weights are asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(experiment.seed, "backbone"))
        return experiment.backbone.load()


def _origin(model: Model, splits: Splits) -> dict[str, str]:
    """Hashes of what a run starts from."""
    return {"backbone": model.recipe.backbone["hash"], "data": splits.fingerprint}


def _resume(model: Model, splits: Splits, run: Run) -> Standing:
    """Puts the saved state, if there is one, into `model`."""
    state = run.read_state()
    if state is None:
        return Standing()
    for group, found in _origin(model, splits).items():
        if state["origin"][group] != found:
            raise ConfigError(
                f"{group}: no longer what it was when {run.folder} began; restore it, or delete that folder"
            )
    load_tuned(model, state["tuned"])
    return Standing(**state["standing"])


def _facts(experiment: Experiment, model: Model, splits: Splits, backbone_size: int) -> dict[str, Any]:
    """What a result says about its run that is known before it starts."""
    counts = model.parameter_counts()
    return {
        "name": experiment.name,
        "identity": experiment.identity,
        "choices": dict(experiment.choices),
        "seed": experiment.seed,
        "parameters": {"method": counts.method, "head": counts.head, "backbone": backbone_size},
        "data": {
            "source": splits.source,
            "fingerprint": splits.fingerprint,
            "images": {split: len(images) for split, images in splits.parts().items()},
            "classes": len(splits.classes),
            "corrupt_images_skipped": splits.skipped,
        },
        "backbone": model.recipe.backbone,
        "preprocessing": model.recipe.preprocessing.record(),
    }


def _announce(facts: Mapping[str, Any], model: Model, run: Run, standing: Standing, epochs: int) -> None:
    """What is about to happen, before it takes its time."""
    parameters, choices = facts["parameters"], facts["choices"]
    lines = {
        "run": run.folder,
        "backbone": f"{choices['backbone']} ({facts['backbone']['name']}), {parameters['backbone']:,} parameters",
        "images": model.recipe.preprocessing,
        "data": facts["data"]["source"],
        "trains": f"{parameters['method']:,} of {choices['method']}, {parameters['head']:,} of the head",
    }
    if standing.epochs:
        lines["resumes"] = f"after epoch {standing.epochs} of {epochs}"
    for label, text in lines.items():
        logger.info("%-9s %s", label, text)


def _tracked(experiment: Experiment, run: Run) -> AbstractContextManager[Log]:
    """The run's mirror."""
    names = [experiment.choices[group] for group in ("method", "backbone", "data")]
    return experiment.tracker.open(
        run_id=experiment.identity,
        name=experiment.name,
        group="-".join(names),  # the seeds and settings of one comparison
        tags=names,
        config=experiment.config,
        folder=run.folder,
    )
