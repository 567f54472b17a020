"""This module trains a model: in epochs and steps it fits what trains in the model to the training images."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from peft_vision.backbone.observation import Observation
from peft_vision.core.config import NOT_HASHED, ConfigError, Pruned, component
from peft_vision.core.distributed import World
from peft_vision.core.progress import Progress
from peft_vision.core.seeding import derive
from peft_vision.core.stopping import Stopped, when_ready
from peft_vision.data.images import Source, shuffled
from peft_vision.method.selection import head_columns
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Optimizer, Stepper
from peft_vision.optimizer.footprint import footprint
from peft_vision.optimizer.restore import restore
from peft_vision.training.evaluate import InferencePass, predict
from peft_vision.training.loss_watch import LossWatch
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.unreached import Unreached


@dataclass(frozen=True)
class Batch:
    """One process's part of a batch of `size` images, divided into `parts` that are computed one after the other."""

    parts: list[tuple[Tensor | Observation, Tensor]]
    size: int


@component
class Trainer:
    """A trainer that fits models by steps. `accumulate`: parts in which each batch is computed, for less memory and the
    same gradient. `checkpointing`: recompute activations in the backward pass. `save_seconds`: least time between two
    saved states. `epochs`: of each phase of the method. `keep`: last keeps the weights at the end of a phase, best
    those of the epoch with the highest validation accuracy, of equal ones the first."""

    epochs: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt
    eval_batch_size: Annotated[PositiveInt, NOT_HASHED]
    clip_norm: PositiveFloat | None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "fp32", "bf16"]
    checkpointing: bool
    compile: bool
    save_seconds: Annotated[NonNegativeFloat, NOT_HASHED]
    keep: Literal["last", "best"]

    def computes_in(self, device: torch.device) -> torch.dtype:
        """Return bf16 where asked for, or where `auto` meets a GPU that computes it natively; else fp32."""
        natively = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        bf16 = self.precision == "bf16" or (self.precision == "auto" and natively)
        return torch.bfloat16 if bf16 else torch.float32

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return an autocast context for the type of `computes_in`."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.computes_in(device) is torch.bfloat16)

    def check(self, optimizer: Optimizer, *, group: str, processes: int) -> None:
        """Raise ConfigError if gradients that the optimizer frees one by one have to be seen together."""
        if not isinstance(optimizer, Stepper) or not optimizer.steps_during_backward:
            return
        together = {
            f"trainer.accumulate={self.accumulate}, whose parts add up": self.accumulate > 1,
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
        step = _Steps(self, model, train, training, optimizer, self.updates(model, stepper, world), Unreached(model))
        last = step.first + self.epochs
        saved_at = monotonic()
        with (
            stepping(optimizer, stepper),
            Progress(
                label="training" if len(model.phases) == 1 else model.phase.name,
                total=self.epochs * len(train),
                unit="images",
                done=(state.epochs - step.first) * len(train),
            ) as progress,
            when_ready() as asked_by,
        ):
            for epoch in range(state.epochs, last):
                started = monotonic()
                metrics = step.epoch(epoch, progress)
                state.count_epoch(monotonic() - started)
                state.footprint = footprint(stepper)
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
            self._remember_best(model, training.state, metrics["val/accuracy"])
        return training.record(metrics)

    def _remember_best(self, model: Model, state: TrainState, accuracy: float) -> None:
        """Note the tuned tensors of the best epoch in `state`, if `keep` is best."""
        if self.keep == "best" and (state.best is None or accuracy > state.best["accuracy"]):
            tuned = {name: tensor.to("cpu", copy=True) for name, tensor in model.tuned_state().items()}
            state.best = {"epoch": state.epochs, "accuracy": accuracy, "tuned": tuned}

    def inference(self, label: str, *, workers: int, world: World) -> InferencePass:
        """Return a pass in this trainer's precision and batch size for evaluation."""
        return InferencePass(self.eval_batch_size, workers, world, self.autocast(world.device), label)

    def evaluate(self, model: Model, images: Source, split: str, *, workers: int, world: World) -> dict[str, float]:
        """Return the metrics of `model` on a split, as `val/accuracy` and so on."""
        predictions = predict(model, images, self.inference(f"scoring {split}", workers=workers, world=world))
        return {f"{split}/{name}": value for name, value in predictions.metrics().items()}

    def updates(self, model: Model, stepper: torch.optim.Optimizer, world: World) -> Callable[[Batch, float], Tensor]:
        """Return a function that updates `model` once, as its present phase trains it, from a batch and a learning
        rate, and returns this process's part of the mean loss. Puts `model` into training mode."""
        model.encoder.set_checkpointing(self.checkpointing)
        model.train()
        lasso = model.phase.lasso
        penalty = (lambda: lasso * head_columns(model.head).norm(dim=0).sum()) if lasso else None
        return partial(self._step, self.compute(model, world), stepper, world=world, penalty=penalty)

    def compute(self, model: nn.Module, world: World) -> nn.Module:
        """Return the module that a step calls: the model, or wrapped to share gradients among processes, or
        compiled."""
        compute: nn.Module = model
        if world.size > 1:
            compute = DistributedDataParallel(model, [world.device] if world.device.type == "cuda" else None)
        return torch.compile(compute) if self.compile else compute

    def batches(self, images: Source, seed: int, epoch: int, workers: int, world: World) -> Iterator[Batch]:
        """Yield the batches of one epoch in an order that depends on seed and epoch only."""
        batches = shuffled(len(images), batch_size=self.batch_size, seed=seed, epoch=epoch)
        # equally many parts on every process, so that all take part in the same backward passes
        parts = [world.share(batch).tensor_split(min(self.accumulate, len(batch))) for batch in batches]
        fetched = images.batches(
            [part for batch in parts for part in batch],
            seed=derive(seed, "augmentation", epoch),
            workers=workers,
        )
        for batch, batch_parts in zip(batches, parts, strict=True):
            yield Batch([next(fetched) for _ in batch_parts], size=len(batch))

    def _step(
        self,
        compute: nn.Module,
        stepper: torch.optim.Optimizer,
        batch: Batch,
        lr: float,
        world: World,
        penalty: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """Update the model once; return this process's part of the mean loss over the batch, without the penalty."""
        for group in stepper.param_groups:
            group["lr"] = lr
        stepper.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=world.device)
        for number, (images, labels) in enumerate(batch.parts):
            last = number == len(batch.parts) - 1
            postponed = compute.no_sync() if world.size > 1 and not last else nullcontext()
            with postponed:
                with self.autocast(world.device):
                    logits = compute(images.to(world.device, non_blocking=True))
                part = F.cross_entropy(
                    logits.float(),
                    labels.to(world.device, non_blocking=True),
                    label_smoothing=self.label_smoothing,
                    reduction="sum",
                )
                # the processes' gradients are averaged, so each one's sum is taken `size` times
                objective = part * (world.size / batch.size)
                if last and penalty is not None:
                    objective = objective + penalty()
                objective.backward()
            loss += part.detach() / batch.size
        if self.clip_norm is not None:
            trained = [p for group in stepper.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.clip_norm)
        stepper.step()
        return loss


@dataclass(frozen=True)
class _Steps:
    """The steps of the present phase of `model` on its training images."""

    trainer: Trainer
    model: Model
    images: Source
    training: Training
    optimizer: Stepper
    update: Callable[[Batch, float], Tensor]
    unreached: Unreached

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
        for index, batch in enumerate(batches):
            factor = self.training.schedule.factor((epoch - self.first) * steps + index, epochs * steps)
            lr = self.optimizer.lr * self.model.phase.lr_factor * factor
            watch.add(self.update(batch, lr), lr=lr)
            if index == 0:
                self.unreached.check()
            progress.advance(batch.size, epoch=f"{epoch - self.first + 1}/{epochs}", **watch.shown())
        return {"train/loss": watch.mean(world), "lr": lr}


def stepping(optimizer: Stepper, stepper: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """Return a context in which backward passes step the parameters, if the optimizer steps during them."""
    return stepper.during_backward() if optimizer.steps_during_backward else nullcontext()
