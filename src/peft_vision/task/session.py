"""This module carries a run's training from its components to its result, in each process."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import Any

from torch import Tensor, nn

from peft_vision.backbone.frozen_weights import frozen_bytes
from peft_vision.backbone.load import load_backbone
from peft_vision.core.config import ConfigError
from peft_vision.core.device_memory import needing_memory
from peft_vision.core.distributed import World
from peft_vision.core.environment import environment, forget_peak, most_mib, peak_mib
from peft_vision.core.identity import files_of
from peft_vision.core.records import lines_checksum
from peft_vision.core.seeding import derive
from peft_vision.data.images import Source
from peft_vision.data.splits import Splits
from peft_vision.data.twins import worded
from peft_vision.data.windows import in_windows
from peft_vision.method.selection import head_columns
from peft_vision.models.adapter import Recipe, write_adapter, write_probe
from peft_vision.models.model import Model
from peft_vision.objective.base import ACCURACY, NOTHING_TO_CHOOSE_BY, ranked, rule_in_words
from peft_vision.objective.predictions import KeptPredictions
from peft_vision.ood.match import foresee, opened
from peft_vision.optimizer.base import Stepper
from peft_vision.runs.experiment import Experiment, open_store
from peft_vision.runs.predictions import check_writing, predictions_checksum, write_predictions
from peft_vision.runs.run import PREDICTIONS, Run
from peft_vision.runs.run_records import ID_SPLITS, ChosenBy, Result
from peft_vision.runs.served import checkpoint_sum
from peft_vision.shift.scoring import NO_VALIDATION
from peft_vision.task.mirrored import mirrored, summary, tell_classes, tell_epochs, tell_row
from peft_vision.task.resuming import origin, resumed
from peft_vision.task.shown import told, untuned_rate
from peft_vision.tracker.trackers import Log, NoTracker
from peft_vision.training.checks import check_mixed_inputs, check_together, check_whole_batch
from peft_vision.training.evaluate import metrics_of, predictions_of
from peft_vision.training.other_seeds import initial_values, metrics_of_seeds, other_seeds
from peft_vision.training.phases import fit_phases
from peft_vision.training.probe import check_model, said
from peft_vision.training.train_state import Training, TrainState


def check_end(experiment: Experiment, model: Model, splits: Splits) -> None:
    """Raise ConfigError for faults that would otherwise stop the run only after its training."""
    if splits.val is None and experiment.trainer.keep == "best":
        raise ConfigError("trainer.keep: best needs validation images to tell the best epoch; set data.val_fraction")
    if splits.val is None and experiment.interpolation.alphas:
        raise ConfigError(NO_VALIDATION)
    if experiment.trainer.keep_predictions:
        check_writing()
    if any(phase.lasso for phase in model.phases):
        head_columns(model.head)  # raises ConfigError for a head without a linear layer
    if experiment.ood:
        parts = experiment.data.parts()
        seen = [parts[split] for split in ("train", "val") if split in parts]
        for name, ood in experiment.ood.items():
            foresee(opened(ood, name, classes=splits.classes, seen=seen), name, experiment.data)


def rehearse(model: Model, facts: Mapping[str, Any]) -> None:
    """Raise now if the facts or the adapter could not be written after training; disk faults are not covered."""
    json.dumps(facts, default=repr)
    write_adapter(model, os.devnull)


logger = logging.getLogger("peft_vision")
Pruner = Callable[[int, float], str | None]
"""Given an epoch (from 1) of the last phase and its validation accuracy, or the rank of the objective's metric, which
is higher for better ones, a pruner returns why to give up, or None."""


class TrainingSession:
    """The part of one process in training a run: the model, the images, the feature store, and the state that the
    training resumes from. Every process trains; only the main one has a `log` and writes files."""

    def __init__(self, experiment: Experiment, run: Run, here: World, pruner: Pruner | None) -> None:
        """Load what the training needs, and check what would fail in it or after it. Damaged if the saved state is."""
        self.experiment, self.run, self.here, self.pruner = experiment, run, here, pruner
        self.log: Log | None = None
        started = monotonic()
        for group, optimizer in experiment.optimizers.items():
            experiment.trainer.check(optimizer, group=group, processes=here.size)
        forget_peak(here.device)
        vit = load_backbone(experiment.backbone, seed=experiment.seed)
        preprocessing = experiment.data.adjusted(experiment.backbone.preprocessing())
        self.splits = experiment.data.load(preprocessing)
        recipe = Recipe(
            method=dict(experiment.config["method"]),
            head=dict(experiment.config["head"]),
            objective=dict(experiment.config["objective"]),
            classes=self.splits.classes,
            preprocessing=preprocessing,
            backbone=experiment.backbone.record(vit),
        )
        self.backbone_size = sum(parameter.numel() for parameter in vit.parameters())
        self.initial = initial_values(recipe.assemble, vit, other_seeds(experiment.optimizer, experiment.seed))
        self.model = recipe.assemble(vit, seed=derive(experiment.seed, "initialisation"))
        experiment.objective.check_labels(self.splits.labels_are)
        if self.model.criterion.learns:
            self.model.criterion.fit(self.splits.train.labels)
        method, has_val = experiment.choices["method"], self.splits.val is not None
        check_model(experiment.optimizers, self.model, method=method, has_val=has_val)
        check_together(experiment.optimizers, self.model, experiment.trainer, method=method, processes=here.size)
        images = len(self.splits.train)
        check_whole_batch(self.model, experiment.trainer, processes=here.size, images=images)
        check_end(experiment, self.model, self.splits)
        self.state = resumed(self.model, self.splits, run, experiment, here)
        self.started = started - self.state.wall_seconds
        self.earlier_images = dict(self.state.backbone_images)
        with needing_memory("the backbone", here.device, "choose a smaller backbone, or a device with more memory"):
            self.model.to(here.device)
        self.parts = in_windows(self.splits.parts(), self.model.criterion.stride)
        self.store = open_store(experiment, self.model, self.parts, here)
        stored = self.store.stores("train")
        check_mixed_inputs(experiment.trainer, stored=stored, processes=here.size)
        self.facts = _facts(experiment, self.model, self.splits)
        self.environment = environment(here.device, here.size, files_of(experiment.user_code))
        if here.is_main:
            rehearse(self.model, {**self.facts, "environment": self.environment, "config": experiment.config})

    def open(self, held: ExitStack) -> None:
        """Write the config, announce the run, and open its log, which `held` closes."""
        experiment, run = self.experiment, self.run
        run.write_config(experiment.config)
        held.enter_context(run.watched())
        run.keep_metrics(self.state.rows)
        self._announce()
        for pair, twins in (self.splits.twins or {}).items():
            (sentence,) = worded({pair: twins.count})
            logger.warning("%-9s %s, byte for byte, such as %s", "twins", sentence, twins.example)
        shown = {"augment": experiment.data.augment, "views": experiment.features.views}
        lines = said(experiment.fitting, self.model, experiment.head, **shown)
        if "optimizer" not in lines and (untuned := untuned_rate(experiment)) is not None:
            lines = {**lines, "rate": untuned}
        for group, line in lines.items():
            logger.info("%-9s %s", group, line)
        if self.model.criterion.chooses and self.splits.val is None:
            logger.warning("objective %s", NOTHING_TO_CHOOSE_BY)
        self.log = held.enter_context(mirrored(experiment, run, anew=self.state.rows == 0))
        tell_epochs(self.log, experiment)

    def fit(self) -> None:
        """Fill the feature store, train all phases, and save the state."""
        experiment, here = self.experiment, self.here
        self._source("train"), self._source("val")
        self.store_peak = most_mib(here.gather(peak_mib(here.device)))
        forget_peak(here.device)
        training = Training(
            schedule=experiment.schedule,
            seed=experiment.seed,
            workers=experiment.data.workers,
            world=here,
            state=self.state,
            record=self._record,
            save=self._save,
            device_memory_gib={name: getattr(experiment, name).device_memory_gib for name in ("data", "features")},
            initial=self.initial,
        )
        fit_phases(
            self.model,
            self._source,
            training,
            optimizers=experiment.optimizers,
            trainer=experiment.trainer,
            memory_bytes=experiment.features.memory_gib * 2**30,
            score_probe=self._score_probe,
        )
        self.peak = most_mib(here.gather(peak_mib(here.device)))
        self.state.test_reads += (self.splits.test is not None) * (1 + len(self.state.of_seeds))
        self._save(self.state)  # before the test set is scored: a run killed there scores it again, and counts both

    def finish(self) -> Result:
        """Score the model, write the adapter and the result, and return the result."""
        self._fit_criterion()
        keeps = self.experiment.trainer.keep_predictions
        judged = self._judged(keeps=keeps)
        seeds = metrics_of_seeds(self.model, self.state.of_seeds, self._metrics)
        result = self._result({**metrics_of(self.model, judged), **self.state.probe}, seeds)
        if self.log is not None:
            kept = predictions_of(self.model, judged) if keeps else {}
            sums = {"predictions": self._place_predictions(kept)}
            self.run.place_adapter(lambda path: write_adapter(self.model, path))
            sums["metrics_jsonl"] = lines_checksum(self.run.folder / "metrics.jsonl")
            self.run.write_result(result.model_copy(update=sums))
            self.log.summary(summary(result))
            if "test" in kept and not isinstance(self.experiment.tracker, NoTracker):
                told("each class", partial(tell_classes, self.log, kept["test"]), self.run.folder)
        return result

    def _source(self, split: str) -> Source | None:
        """Return what the present phase reads of a split, or None if there is no such split."""
        return self.store.source(split) if split in self.parts else None

    def _record(self, metrics: dict[str, float]) -> str | None:
        """Write a row of metrics, and return the pruner's reason to stop the run, if it has one."""
        self.state.rows += 1
        if self.log is None:
            return None
        self.run.append_metrics(metrics)
        tell_row(self.log, metrics)
        return None if self.pruner is None else _verdict(self.pruner, metrics, self.experiment, self.model)

    def _save(self, state: TrainState) -> None:
        state.wall_seconds = monotonic() - self.started
        state.backbone_images = self._backbone_images()
        if self.here.is_main:
            begun_with = origin(self.model, self.splits)
            self.run.write_state({"tuned": self.model.tuned_state(), "standing": vars(state), "origin": begun_with})

    def _judged(self, *, keeps: bool) -> dict[str, tuple[Tensor, ...]]:
        """Return the columns of the criterion on val and test, where there are such images. `keeps`: with those of the
        predictions."""
        options = {"workers": self.experiment.data.workers, "world": self.here, "keeps": keeps}
        sources = {split: self._source(split) for split in ID_SPLITS if split in self.splits.parts()}
        trainer = self.experiment.trainer
        return {split: trainer.judged(self.model, source, split, **options) for split, source in sources.items()}

    def _metrics(self) -> dict[str, float]:
        return metrics_of(self.model, self._judged(keeps=False))

    def _place_predictions(self, kept: Mapping[str, KeptPredictions]) -> str | None:
        """Write the predictions by split, and return the file's checksum; None if there are none."""
        if not kept:
            return None
        facts = {"pictures": self.splits.pictures, "identity": self.experiment.identity}
        self.run.place_predictions(partial(write_predictions, kept=kept, **facts))
        return predictions_checksum(self.run.folder / PREDICTIONS)

    def _fit_criterion(self) -> None:
        """Let the criterion choose by the validation images what it has to, such as a threshold."""
        if self.model.criterion.chooses and (val := self._source("val")) is not None:
            trainer, workers = self.experiment.trainer, self.experiment.data.workers
            self.model.criterion.fit_validation(
                trainer.judged(self.model, val, "val", workers=workers, world=self.here)
            )

    def _score_probe(self) -> None:
        """Save and score the head as it is before anything else trains."""
        self._fit_criterion()
        if self.here.is_main:
            self.run.place_probe(lambda path: write_probe(self.model, path))
        self.state.test_reads += self.splits.test is not None
        self._save(self.state)  # as `fit` does
        self.state.probe = {f"probe/{name}": value for name, value in self._metrics().items()}

    def _backbone_images(self) -> dict[str, int]:
        """Return how many images, or windows of them, of each split went through the backbone, over all processes and
        before a resume."""
        shares = self.here.gather({split: images.handed_out for split, images in self.parts.items()})
        earlier = self.earlier_images
        return {split: earlier.get(split, 0) + sum(share[split] for share in shares) for split in self.parts}

    def _result(self, metrics: Mapping[str, float], seeds: Mapping[int, Mapping[str, float]]) -> Result:
        """Return the content of result.json. `seeds`: metrics of the models of other seeds."""
        state, counts = self.state, self.model.parameter_counts()
        each = sorted({**seeds, self.experiment.seed: metrics}.items())
        return Result(
            **self.facts,
            parameters={"method": counts.method, "head": counts.head, "backbone": self.backbone_size},
            features=_features_read(self.model),
            selection=state.selection,
            kept_epochs=state.kept_epochs,
            kept_rule=rule_in_words(self.model.criterion.metric, "first") if state.kept_epochs else None,
            metrics=metrics,
            test_reads=state.test_reads + (state.rows if self.experiment.data.stage == "peek" else 0),
            backbone_images=self._backbone_images(),
            store={"splits": self.store.record(), "peak_mib": self.store_peak},
            optimizer=state.footprint,
            inputs=state.inputs,
            images_per_second=state.stepped_epochs * len(self.splits.train) / max(state.stepped_seconds, 1e-9),
            peak_mib=self.peak,
            train_seconds=state.train_seconds,
            wall_seconds=monotonic() - self.started,
            environment=self.environment,
            config=self.experiment.config,
            chosen_by=None if (metric := self.model.criterion.metric) == ACCURACY else ChosenBy(**vars(metric)),
            seeds=[{"seed": seed, **found} for seed, found in each] if seeds else None,
            quantized=None if (held := frozen_bytes(self.model.encoder)) is None else vars(held),
        )

    def _announce(self) -> None:
        """Log the run's folder, backbone, images, data and number of trained parameters before training."""
        model, facts = self.model, self.facts
        parameters, choices = model.parameter_counts(), facts["choices"]
        lines = {
            "run": self.run.folder,
            "backbone": f"{choices['backbone']} ({facts['backbone']['name']}), {self.backbone_size:,} parameters",
            "images": model.recipe.preprocessing,
            "data": facts["data"]["source"],
            "trainable": f"{parameters.method:,} ({choices['method']}) + {parameters.head:,} (head)",
        }
        if (held := frozen_bytes(model.encoder)) is not None:
            lines["quantized"] = str(held)
        if len(model.phases) > 1:
            lines["phases"] = ", ".join(phase.name for phase in model.phases)
        if self.state.epochs:
            lines["resumes"] = f"after epoch {self.state.epochs}"
        for label, text in lines.items():
            logger.info("%-9s %s", label, text)


def _features_read(model: Model) -> int:
    """Return how many features the head reads: the inputs of its first linear layer, or all if it has none."""
    linear = next((module for module in model.head.modules() if isinstance(module, nn.Linear)), None)
    return model.readout.width if linear is None else linear.in_features


def _verdict(pruner: Pruner, metrics: Mapping[str, float], experiment: Experiment, model: Model) -> str | None:
    """Return why to stop after an epoch if the pruner says so, or None; earlier phases do not predict the final
    accuracy."""
    ahead = (len(model.phases) - 1) * experiment.trainer.epochs
    steps = isinstance(experiment.optimizers[model.phase.group], Stepper)
    metric = model.criterion.metric
    rank = ranked(metrics, "val", metric)
    if not steps or model.begun < len(model.phases) or rank is None:
        return None
    reason = pruner(int(metrics["epoch"]) - ahead, rank)
    return reason and f"{reason}, with {metric.words} {metric.shown(metrics[f'val/{metric.name}'])} on validation"


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
