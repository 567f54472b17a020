"""This module trains a model and then scores the test set once: the main task."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator
from torch import nn

from peft_vision.adapter import Recipe, write_adapter, write_probe
from peft_vision.backbone.load import load_backbone
from peft_vision.backbone.weights import weights_hash
from peft_vision.config import ConfigError, build, component
from peft_vision.data.images import Source
from peft_vision.data.splits import Splits
from peft_vision.data.twins import worded
from peft_vision.distributed import World, world
from peft_vision.environment import environment, forget_peak, most_mib, peak_mib
from peft_vision.experiment import Experiment, open_store
from peft_vision.model import Model
from peft_vision.optimizer.base import Stepper
from peft_vision.phases import fit_phases
from peft_vision.probe import check_model, said
from peft_vision.pruner import Pruner
from peft_vision.report.shift_summary import print_shifts
from peft_vision.report.summary import print_summary
from peft_vision.run import Run
from peft_vision.seeding import derive
from peft_vision.served import Served, checkpoint_sum
from peft_vision.shift.scoring import score_shifts
from peft_vision.state import Damaged
from peft_vision.task.ahead import check_end, rehearse
from peft_vision.task.awaited import summary, tell_again, tell_epochs
from peft_vision.task.base import Task
from peft_vision.task.mirrored import mirrored
from peft_vision.task.resuming import origin, resumed
from peft_vision.task.shown import are_drawn, show_pictures, told
from peft_vision.trainer import TrainState
from peft_vision.user_code import files_of
from peft_vision.whole_batch import check_whole_batch

logger = logging.getLogger("peft_vision")


def _built(pruner: Any) -> Pruner | None:
    return None if pruner is None else build(pruner, Pruner, "task.pruner")


@component
class Train(Task):
    """A task that trains a model and scores the test set. `retry`: whether a run that failed is tried again, from its
    last saved epoch; None: only outside a sweep. `wait`: whether to wait for another process that works on the same
    run, until it ends or dies. `pruner`: decides after each epoch whether to give the run up; None: never."""

    shares_work: ClassVar[bool] = True

    retry: bool | None
    wait: bool
    pruner: Annotated[Pruner | None, BeforeValidator(_built)]

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float:
        """Train the run unless it is finished; return its validation accuracy, or test accuracy without that split."""
        experiment = Experiment.of(config, choices)
        run = experiment.run
        if run.read_result() is None or experiment.ood:
            experiment.check()
        with world(experiment.device) as here, ExitStack() as held:
            if here.is_main:
                held.enter_context(run.locked(wait=self.wait))
            found = (Served().result(experiment), run.read_failure()) if here.is_main else None
            result, failure = here.agree(found)
            if result is None and failure is not None and self.retry is False:
                raise ConfigError(f"failed before: {failure}\ntask.retry=true tries again: {run.folder}")
            if result is None:
                result = _to_the_end(experiment, run, here, pruner=self.pruner)
            elif here.is_main:
                run.forget_way()  # deletes the state that a killed process left
                logger.info("done before, with the same config; this is its result")
                tell_again(experiment, run, result)
            if here.is_main:
                told("the result", partial(print_summary, result, run.folder), run.folder)
            before = run.read_ood()
            shifts = score_shifts(experiment, result, here)
            if shifts is not None and here.is_main:
                told("the scores out of distribution", partial(print_shifts, shifts, run.folder), run.folder)
                if shifts != before or not are_drawn(shifts, run):
                    told("their pictures", partial(show_pictures, experiment, run, shifts), run.folder)
        metrics = result["metrics"]
        return metrics["val/accuracy" if "val/accuracy" in metrics else "test/accuracy"]


def _to_the_end(experiment: Experiment, run: Run, here: World, *, pruner: Pruner | None) -> dict[str, Any]:
    """Train from the saved state, or from the start where there is none or it is damaged, and return the result."""
    try:
        return _train(experiment, run, here, pruner=pruner)
    except Damaged as damage:
        if here.is_main:
            run.set_state_aside(damage)
        here.gather(None)  # no process looks for a state before it is set aside
    return _train(experiment, run, here, pruner=pruner)


def _train(experiment: Experiment, run: Run, here: World, *, pruner: Pruner | None) -> dict[str, Any]:
    """Train in every process and write in the main one. Damaged, before anything is trained, if the saved state is."""
    started = monotonic()
    for group, optimizer in experiment.optimizers.items():
        experiment.trainer.check(optimizer, group=group, processes=here.size)
    forget_peak(here.device)
    vit = load_backbone(experiment.backbone, seed=experiment.seed)
    preprocessing = experiment.data.adjusted(experiment.backbone.preprocessing())
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
    method, has_val = experiment.choices["method"], splits.val is not None
    check_model(experiment.optimizers, model, method=method, has_val=has_val)
    check_whole_batch(model, experiment.trainer, processes=here.size)
    check_end(experiment, model, splits)
    standing = resumed(model, splits, run, experiment, here)
    started -= standing.wall_seconds
    earlier = dict(standing.backbone_images)
    model.to(here.device)
    store = open_store(experiment, model, splits.parts(), here)
    facts = _facts(experiment, model, splits)
    surroundings = environment(here.device, here.size, files_of(experiment.user_code))
    if here.is_main:
        rehearse(model, {**facts, "environment": surroundings, "config": experiment.config})
    with ExitStack() as held:
        log = None
        if here.is_main:
            run.write_config(experiment.config)
            held.enter_context(run.watched())
            run.keep_metrics(standing.rows)
            _announce(facts, model, run, standing, backbone_size)
            for pair, twins in (splits.twins or {}).items():
                (sentence,) = worded({pair: twins.count})
                logger.warning("%-9s %s, byte for byte, such as %s", "twins", sentence, twins.example)
            shown = {"augment": experiment.data.augment, "views": experiment.features.views}
            for group, line in said(experiment.fitting, model, experiment.head, **shown).items():
                logger.info("%-9s %s", group, line)
            log = held.enter_context(mirrored(experiment, run, anew=standing.rows == 0))
            tell_epochs(log, experiment)

        def record(metrics: dict[str, float]) -> str | None:
            standing.rows += 1
            if log is None:
                return None
            run.append_metrics(metrics)
            log.metrics(metrics, step=int(metrics["epoch"]))
            return None if pruner is None else _verdict(pruner, metrics, experiment, model)

        def save(standing: TrainState) -> None:
            standing.wall_seconds = monotonic() - started
            standing.backbone_images = _backbone_images(earlier, splits, here)
            if here.is_main:
                state = {"tuned": model.tuned_state(), "standing": vars(standing), "origin": origin(model, splits)}
                run.write_state(state)

        def source(split: str) -> Source | None:
            return store.source(split) if split in splits.parts() else None

        def score(prefix: str = "") -> dict[str, float]:
            """Return the metrics of the model on val and test, where there are such images."""
            metrics: dict[str, float] = {}
            for split in ("val", "test"):
                if (inputs := source(split)) is not None:
                    workers = experiment.data.workers
                    metrics |= experiment.trainer.evaluate(model, inputs, split, workers=workers, world=here)
            return {f"{prefix}{name}": value for name, value in metrics.items()}

        def score_probe() -> None:
            if here.is_main:
                run.place_probe(lambda path: write_probe(model, path))
            standing.test_reads += splits.test is not None
            standing.probe = score("probe/")

        source("train"), source("val")
        store_peak = most_mib(here.gather(peak_mib(here.device)))
        forget_peak(here.device)
        fit_phases(
            model,
            source,
            optimizers=experiment.optimizers,
            trainer=experiment.trainer,
            schedule=experiment.schedule,
            seed=experiment.seed,
            memory_bytes=experiment.features.memory_gib * 2**30,
            workers=experiment.data.workers,
            world=here,
            standing=standing,
            record=record,
            save=save,
            score_probe=score_probe,
        )
        peak = most_mib(here.gather(peak_mib(here.device)))
        standing.test_reads += splits.test is not None
        save(standing)  # before the test set is scored: a run killed there scores it again, and counts both reads
        metrics = {**score(), **standing.probe}
        counts = model.parameter_counts()
        costs = {
            "images_per_second": standing.stepped_epochs * len(splits.train) / max(standing.stepped_seconds, 1e-9),
            "peak_mib": peak,
            "train_seconds": standing.train_seconds,
            "wall_seconds": monotonic() - started,
        }
        result = {
            **facts,
            "parameters": {"method": counts.method, "head": counts.head, "backbone": backbone_size},
            "features": _features_read(model),
            "selection": standing.selection,
            "kept_epochs": standing.kept_epochs,
            "metrics": metrics,
            "test_reads": standing.test_reads + (standing.rows if experiment.data.stage == "peek" else 0),
            "backbone_images": _backbone_images(earlier, splits, here),
            "store": {"splits": store.record(), "peak_mib": store_peak},
            "optimizer": standing.footprint,
            **costs,
            "environment": surroundings,
            "config": experiment.config,
        }
        if log is not None:
            run.place_adapter(lambda path: write_adapter(model, path))
            run.write_result(result)
            log.summary(summary(result))
    return result


def _features_read(model: Model) -> int:
    """Return how many features the head reads: the inputs of its first linear layer, or all if it has none."""
    linear = next((module for module in model.head.modules() if isinstance(module, nn.Linear)), None)
    return model.readout.width if linear is None else linear.in_features


def _verdict(pruner: Pruner, metrics: Mapping[str, float], experiment: Experiment, model: Model) -> str | None:
    """Return the pruner's reason to stop after an epoch, or None; earlier phases do not predict the final accuracy."""
    ahead = (len(model.phases) - 1) * experiment.trainer.epochs
    steps = isinstance(experiment.optimizers[model.phase.group], Stepper)
    if not steps or model.begun < len(model.phases) or "val/accuracy" not in metrics:
        return None
    return pruner.verdict(int(metrics["epoch"]) - ahead, metrics["val/accuracy"])


def _backbone_images(earlier: Mapping[str, int], splits: Splits, here: World) -> dict[str, int]:
    """Return how many images of each split went through the backbone, over all processes and before a resume."""
    shares = here.gather({split: images.handed_out for split, images in splits.parts().items()})
    return {split: earlier.get(split, 0) + sum(share[split] for share in shares) for split in splits.parts()}


def _facts(experiment: Experiment, model: Model, splits: Splits) -> dict[str, Any]:
    """Return the facts that a result states about its run and that are known before it starts."""
    return {
        "name": experiment.name,
        "identity": experiment.identity,
        "choices": dict(experiment.choices),
        "seed": experiment.seed,
        "data": {
            "source": splits.source,
            "group": splits.group,
            "provenance": dict(splits.provenance),
            "fingerprint": splits.fingerprint,
            "images": {split: len(images) for split, images in splits.parts().items()},
            "classes": len(splits.classes),
            "corrupt_images_skipped": splits.skipped,
            "twins": splits.twin_counts,
        },
        "backbone": model.recipe.backbone,
        "checkpoint": checkpoint_sum(experiment),
        "preprocessing": model.recipe.preprocessing.record(),
    }


def _announce(facts: Mapping[str, Any], model: Model, run: Run, standing: TrainState, backbone_size: int) -> None:
    """Log the run's folder, backbone, images, data and number of trained parameters before training."""
    parameters, choices = model.parameter_counts(), facts["choices"]
    lines = {
        "run": run.folder,
        "backbone": f"{choices['backbone']} ({facts['backbone']['name']}), {backbone_size:,} parameters",
        "images": model.recipe.preprocessing,
        "data": facts["data"]["source"],
        "trains": f"{parameters.method:,} of {choices['method']}, {parameters.head:,} of the head",
    }
    if len(model.phases) > 1:
        lines["phases"] = ", ".join(phase.name for phase in model.phases)
    if standing.epochs:
        lines["resumes"] = f"after epoch {standing.epochs}"
    for label, text in lines.items():
        logger.info("%-9s %s", label, text)
