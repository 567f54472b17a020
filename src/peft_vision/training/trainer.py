"""This module trains a model: in epochs and steps it fits what trains in the model to the training images."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from peft_vision.backbone.frozen_weights import rounded_once
from peft_vision.core.config import NOT_HASHED, ConfigError, HashDefault, Pruned, component
from peft_vision.core.device_memory import DeviceRoom, needing_memory, on_device
from peft_vision.core.distributed import World
from peft_vision.core.progress import Progress
from peft_vision.core.seeding import derive
from peft_vision.core.stopping import Stopped, when_ready
from peft_vision.data.images import Source, shuffled
from peft_vision.method.selection import head_columns
from peft_vision.models.model import Model
from peft_vision.objective.base import Merit, ranked
from peft_vision.optimizer.base import Optimizer, Stepper
from peft_vision.optimizer.restore import footprint, restore
from peft_vision.training.evaluate import InferencePass, judged, metrics_of
from peft_vision.training.graphed import Compile, GraphedUpdate, check_graph
from peft_vision.training.inputs import Inputs, released
from peft_vision.training.mixup import ImageMixing
from peft_vision.training.step import Arithmetic, Batch, Update, normalises_batches
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.watch import LossWatch, Unreached


@component
class Trainer:
    """A trainer that fits models by steps. `accumulate`: parts in which each batch is computed, for less memory and the
    same gradient; auto: one, and twice as many each time that the device has no memory left. `checkpointing`: recompute
    activations in the backward pass. `save_seconds`: least time between two saved states. `epochs`: of each phase of
    the method. `keep`: last keeps the weights at the end of a phase, best those of the epoch with the highest
    validation accuracy, or whatever the objective chooses by, of equal ones the lowest loss, then the first.
    `mixup_alpha`, `cutmix_alpha`: of the shares by which images and labels are mixed (mixup.py); 0: not.
    `keep_predictions`: whether the prediction for each validation and test image is kept beside the result."""

    epochs: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt | Literal["auto"]
    eval_batch_size: Annotated[PositiveInt, NOT_HASHED]
    clip_norm: PositiveFloat | None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "fp32", "bf16", "tf32"]
    checkpointing: bool
    compile: Compile
    save_seconds: Annotated[NonNegativeFloat, NOT_HASHED]
    keep: Literal["last", "best"]
    mixup_alpha: Annotated[Annotated[float, Field(ge=0)], HashDefault(0.0)]
    cutmix_alpha: Annotated[Annotated[float, Field(ge=0)], HashDefault(0.0)]
    keep_predictions: Annotated[bool, NOT_HASHED, HashDefault(True)]

    @property
    def mixes(self) -> bool:
        """True if images are mixed in training."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def computes_in(self, device: torch.device) -> torch.dtype:
        """Return bf16 where asked for, or where `auto` meets a GPU that computes it natively; else fp32."""
        natively = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        bf16 = self.precision == "bf16" or (self.precision == "auto" and natively)
        return torch.bfloat16 if bf16 else torch.float32

    def arithmetic(self, device: torch.device) -> str:
        """Return the name of what matrices are multiplied in: torch.float32, torch.bfloat16, or tf32, which other
        devices than a GPU do not have."""
        return "tf32" if self.precision == "tf32" and device.type == "cuda" else str(self.computes_in(device))

    def autocast(self, device: torch.device) -> Arithmetic:
        """Return a context in which a model computes in the type of `computes_in`, or in TF32."""
        name = self.arithmetic(device)
        return Arithmetic(device.type, bf16=name == "torch.bfloat16", tf32=name == "tf32")

    def check(self, optimizer: Optimizer, *, group: str, processes: int) -> None:
        """Raise ConfigError if gradients that the optimizer frees one by one have to be seen together, or if several
        processes are to find the number of parts."""
        if self.compile == "cuda_graph" and self.checkpointing:
            raise ConfigError("trainer.compile: got cuda_graph, whose steps cannot recompute; set checkpointing=false")
        if self.compile == "cuda_graph" and self.accumulate == "auto":
            raise ConfigError("trainer.accumulate: auto, but trainer.compile=cuda_graph fixes the parts; set a number")
        if self.accumulate == "auto" and processes > 1:
            raise ConfigError(
                f"trainer.accumulate: auto is for one process, and each of {processes} would find its own; set a number"
            )
        if not isinstance(optimizer, Stepper) or not optimizer.steps_during_backward:
            return
        together = {
            f"trainer.accumulate={self.accumulate}, whose parts add up": self.accumulate != 1,
            f"trainer.clip_norm={self.clip_norm}, which is the norm of all": self.clip_norm is not None,
            f"{processes} processes, which average theirs": processes > 1,
        }
        if reasons := [reason for reason, applies in together.items() if applies]:
            raise ConfigError(f"{group}.per_layer: frees each gradient at once; it goes without {'; '.join(reasons)}")

    def fit(self, model: Model, train: Source, val: Source | None, training: Training, *, optimizer: Stepper) -> None:
        """Train `model` in its present phase, from `training.state` to the phase's last epoch.

        `training.record` gets the metrics of each epoch and may return why to give up: that raises Pruned. It is saved
        when `save_seconds` have passed since it last was, after the last epoch, before giving up, and when this process
        is asked to stop, which then raises Stopped. Everything random is a function of the seed and the epoch, so a run
        that stopped and goes on ends in the same weights. Raise ConfigError for a loss that is not finite, and keep
        nothing after the last save; likewise for a tensor that should train and gets no gradient in the first step.
        Raise Damaged if the optimizer's state in `training.state` is not this one's.
        """
        state, world = training.state, training.world
        stepper = optimizer.create(model, seed=derive(training.seed, "optimizer", model.begun))
        if state.optimizer is not None:
            restore(stepper, state.optimizer)
        room = DeviceRoom(world.device, training.device_memory_gib)
        inputs, val = Inputs(train, room), None if val is None else Inputs(val, room)
        saved_at = monotonic()
        with (
            self.rounded_once(model, world.device),
            stepping(optimizer, stepper),
            Progress(
                label="training" if len(model.phases) == 1 else model.phase.name,
                total=self.epochs * len(train),
                unit="images",
                done=(state.epochs - (model.begun - 1) * self.epochs) * len(train),
            ) as progress,
            when_ready() as asked_by,
        ):
            again = world.size == 1 and not optimizer.steps_during_backward and not normalises_batches(model)
            release = partial(released, inputs, val) if again and self.compile != "cuda_graph" else None
            update = self.updates(model, stepper, world, release=release, parts=state.parts)
            alphas, classes = (self.mixup_alpha, self.cutmix_alpha), model.criterion.num_outputs
            mixing = ImageMixing(*alphas, classes, model.normalize, training.seed)
            step = _Steps(self, model, inputs, training, optimizer, update, Unreached(model), mixing)
            last = step.first + self.epochs
            for epoch in range(state.epochs, last):
                started = monotonic()
                metrics = step.epoch(epoch, progress)
                state.count_epoch(monotonic() - started)
                state.footprint, state.inputs, state.parts = footprint(stepper), inputs.record(), update.parts
                hopeless = self._recorded(model, val, training, {"epoch": state.epochs, **metrics})
                if state.epochs == last and state.best is not None:
                    model.load_state_dict(state.best["tuned"], strict=False)
                    state.kept_epochs[model.phase.name] = state.best["epoch"]
                    state.best = None
                asked = max(world.gather(asked_by()))
                hopeless, due = world.agree((hopeless, monotonic() - saved_at >= self.save_seconds))
                hopeless = hopeless if state.epochs < last else None
                if due or hopeless or asked or state.epochs == last:
                    state.optimizer = None if state.epochs == last else stepper.state_dict()
                    training.save(state)
                    saved_at = monotonic()
                if hopeless:
                    raise Pruned(hopeless)
                if asked:
                    raise Stopped(asked)

    def _recorded(self, model: Model, val: Source | None, training: Training, metrics: dict[str, float]) -> str | None:
        """Score the validation images after an epoch, record its metrics, and return the reason to give up, if any."""
        if len(model.phases) > 1:
            metrics["phase"] = model.phase.name
        if val is not None:
            metrics |= self.evaluate(model, val, "val", workers=training.workers, world=training.world)
            rank = ranked(metrics, "val", model.criterion.metric)
            unknown = rank is None  # as where no image of validation has any class
            merit = Merit.of(-math.inf if unknown else rank, None if unknown else metrics.get("val/loss"))
            self.remember_best(model, training.state, merit)
        return training.record(metrics)

    def remember_best(self, model: Model, state: TrainState, merit: Merit) -> None:
        """Note the tuned tensors of the best epoch in `state`, if `keep` is best. `merit`: of the present epoch."""
        if self.keep == "best" and (state.best is None or merit > state.merit_of_best()):
            tuned = {name: tensor.to("cpu", copy=True) for name, tensor in model.tuned_state().items()}
            state.best = {"epoch": state.epochs, "accuracy": merit.rank, "ease": merit.ease, "tuned": tuned}

    def inference(self, label: str, *, workers: int, world: World) -> InferencePass:
        """Return a pass in this trainer's precision and batch size for evaluation."""
        return InferencePass(self.eval_batch_size, workers, world, self.autocast(world.device), label)

    def evaluate(self, model: Model, images: Source, split: str, *, workers: int, world: World) -> dict[str, float]:
        """Return the metrics of `model` on a split, as `val/accuracy` and so on."""
        return metrics_of(model, {split: self.judged(model, images, split, workers=workers, world=world)})

    def judged(
        self, model: Model, images: Source, split: str, *, workers: int, world: World, keeps: bool = False
    ) -> tuple[Tensor, ...]:
        """Return the columns of the model's criterion for a split. `keeps`: with those of the predictions."""
        inference = self.inference(f"scoring {split}", workers=workers, world=world)
        return judged(model, images, inference, keeps=keeps)

    def rounded_once(self, model: Model, device: torch.device) -> AbstractContextManager[None]:
        """Return a context in which frozen weights are held in the type that matrices are multiplied in."""
        read_as_terms = "contexts" in model.readout.reads  # whose queries add the bias of values by themselves
        later = model.trained().values()  # a state that is saved meanwhile holds what a later phase trains
        return rounded_once(model.encoder, self.computes_in(device), biases_of_qkv=not read_as_terms, but=later)

    def updates(
        self,
        model: Model,
        stepper: torch.optim.Optimizer,
        world: World,
        *,
        release: Callable[[], bool] | None = None,
        parts: int = 1,
    ) -> Update | GraphedUpdate:
        """Return a function that updates `model` once, as its present phase trains it, from a batch on the device and a
        learning rate, and returns this process's part of the mean loss. Puts `model` into training mode. `release`
        and `parts` are those of `Update`."""
        model.encoder.set_checkpointing(self.checkpointing)
        model.train()
        lasso = model.phase.lasso
        penalty = (lambda: lasso * head_columns(model.head).norm(dim=0).sum()) if lasso else None
        update = Update(
            compute=self.compute(model, world),
            stepper=stepper,
            world=world,
            arithmetic=self.autocast(world.device),
            loss=partial(model.criterion.loss, label_smoothing=self.label_smoothing),
            clip_norm=self.clip_norm,
            penalty=penalty,
            divides=self.accumulate == "auto",
            release=release,
            parts=parts,
        )
        if self.compile != "cuda_graph":
            return update
        check_graph(stepper, world)
        return GraphedUpdate(update)

    def compute(self, model: nn.Module, world: World) -> nn.Module:
        """Return the module that a step calls: the model, or wrapped to share gradients among processes, or
        compiled."""
        compute: nn.Module = model
        if world.size > 1:
            compute = DistributedDataParallel(model, [world.device] if world.device.type == "cuda" else None)
        if not self.compile or self.compile == "cuda_graph":
            return compute
        # a graph is captured for each shape: of the batches, and of an epoch's last one
        options = {} if self.compile is True else {"mode": self.compile, "dynamic": False}
        return torch.compile(compute, **options)

    def batches(self, images: Source, seed: int, epoch: int, workers: int, world: World) -> Iterator[Batch]:
        """Yield the batches of one epoch on the device of `world`, in an order that depends on seed and epoch only."""
        divided = 1 if self.accumulate == "auto" else self.accumulate
        batches = shuffled(len(images), batch_size=self.batch_size, seed=seed, epoch=epoch)
        # equally many parts on every process, so that all take part in the same backward passes
        parts = [world.share(batch).tensor_split(min(divided, len(batch))) for batch in batches]
        fetched = on_device(
            images.batches(
                [part for batch in parts for part in batch],
                seed=derive(seed, "augmentation", epoch),
                workers=workers,
            ),
            world.device,
        )
        for batch, batch_parts in zip(batches, parts, strict=True):
            yield Batch([next(fetched) for _ in batch_parts], size=len(batch))


@dataclass(frozen=True)
class _Steps:
    """The steps of the present phase of `model` on its training images."""

    trainer: Trainer
    model: Model
    images: Inputs
    training: Training
    optimizer: Stepper
    update: Update | GraphedUpdate
    unreached: Unreached
    mixing: ImageMixing

    @property
    def first(self) -> int:
        """The number of epochs in the phases before this one."""
        return (self.model.begun - 1) * self.trainer.epochs

    def epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        """Train one epoch and return its mean loss and its last learning rate."""
        seed, world, epochs = self.training.seed, self.training.world, self.trainer.epochs
        steps = -(-len(self.images) // self.trainer.batch_size)
        torch.manual_seed(derive(seed, "epoch", epoch, world.rank))
        watch = LossWatch(first_step=epoch * steps)
        batches = self.trainer.batches(self.images, seed, epoch, self.training.workers, world)
        what = f"training steps of {self.trainer.batch_size} images"
        with needing_memory(what, world.device, self._less_memory()):
            for index, batch in enumerate(batches):
                factor = self.training.schedule.factor((epoch - self.first) * steps + index, epochs * steps)
                lr = self.optimizer.lr * self.model.phase.lr_factor * factor
                watch.add(self.update(self.mixing(batch, epoch, index), lr), lr=lr)
                if index == 0:
                    self.unreached.check()
                progress.advance(batch.size, epoch=f"{epoch - self.first + 1}/{epochs}", **watch.shown())
        return {"train/loss": watch.mean(world), "lr": lr}

    def _less_memory(self) -> str:
        """Return what to set for steps that need less memory."""
        auto = self.trainer.accumulate == "auto" or self.training.world.size > 1
        parts = "" if auto else "trainer.accumulate=auto, "
        options = [f"{parts}a smaller trainer.batch_size"]
        options += [] if self.trainer.checkpointing else ["trainer.checkpointing=true"]
        options += ["data.device_memory_gib=0 features.device_memory_gib=0"] if self.images.lie_on_device else []
        return f"set {', or '.join(options)}"


def stepping(optimizer: Stepper, stepper: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """Return a context in which backward passes step the parameters, if the optimizer steps during them."""
    return stepper.during_backward() if optimizer.steps_during_backward else nullcontext()
