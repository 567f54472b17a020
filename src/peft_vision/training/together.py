"""This module trains one model for each setting of a grid in the same steps, on one frozen backbone.

Each batch passes the backbone once for all settings (`mixing/mixture.py`): the layers before the first one that the
method changes see its images once, and the others' frozen products have the rows of all settings. What the method added
is stacked over the settings. Each model steps by its own rate and decay and sees the batches of a single run, which it
equals up to the order of sums. Validation chooses one of them, as among the probes of a grid.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Around
from peft_vision.backbone.observation import Observation
from peft_vision.backbone.quantized import QuantizedLinear
from peft_vision.backbone.stage import Ports
from peft_vision.core.config import ConfigError
from peft_vision.core.device_memory import DeviceRoom, needing_memory
from peft_vision.core.progress import Progress
from peft_vision.core.seeding import derive
from peft_vision.core.stopping import Stopped, when_ready
from peft_vision.core.tensor_files import Damaged, check_tensors
from peft_vision.data.images import Source
from peft_vision.mixing.mixture import Changes, Mixture
from peft_vision.models.model import Model
from peft_vision.objective.base import ACCURACY, Merit, rule_in_words
from peft_vision.optimizer.base import Stepper, merit_of_tried
from peft_vision.optimizer.grid import Grid
from peft_vision.optimizer.restore import restore
from peft_vision.training.checks import ADVICE
from peft_vision.training.inputs import Inputs
from peft_vision.training.step import Batch, Part, clip, set_rates
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer

_TOLERANCE = 1e-3  # relative to the length of a gradient


@dataclass
class _Member:
    """The training of one setting. `best`: holds the best epoch so far where the trainer keeps it."""

    model: Model
    optimizer: Stepper
    stepper: torch.optim.Optimizer
    best: TrainState = field(default_factory=TrainState)

    @property
    def setting(self) -> dict[str, float]:
        return {"lr": self.optimizer.lr, "weight_decay": self.optimizer.weight_decay}

    def saved(self) -> dict[str, Any]:
        """Return what the training goes on from."""
        tuned = {name: tensor.to("cpu", copy=True) for name, tensor in self.model.tuned_state().items()}
        return {"tuned": tuned, "stepper": self.stepper.state_dict(), "best": self.best.best}

    def load(self, saved: Any) -> None:
        """Go on from what was saved. Raise Damaged where it is not of such a setting."""
        if not isinstance(saved, Mapping) or saved.keys() != {"tuned", "stepper", "best"}:
            raise Damaged("a setting of its grid is none of this run's")
        check_tensors(saved["tuned"], self.model.tuned_state(), "the tensors of a setting")
        self.model.load_state_dict(dict(saved["tuned"]), strict=False)
        restore(self.stepper, saved["stepper"])
        if saved["best"] is not None:
            tuned = saved["best"].get("tuned") if isinstance(saved["best"], Mapping) else None
            check_tensors(tuned, self.model.tuned_state(), "the tensors of a setting's best epoch")
        self.best.best = saved["best"]


class Together:
    """Models, one for each setting of a grid, that begin as `model` and step together."""

    def __init__(self, model: Model, grid: Grid, trainer: Trainer, training: Training) -> None:
        self.model, self.trainer, self.training = model, trainer, training
        twins = [_twin(model) for _ in range(grid.num_settings)]
        alone = model.frozen == model.readout.reads  # only what reads the backbone trains
        self.mixture = None if alone else _mixture(model, twins)
        if self.mixture is not None:
            self.mixture.encoder.set_checkpointing(trainer.checkpointing)
        self._checked = training.state.epochs > 0  # by then all have values of their own
        seed = derive(training.seed, "optimizer", model.begun)
        self.members = [
            _Member(twin.train(), optimizer, optimizer.create(twin, seed=seed))
            for twin, optimizer in zip(twins, grid.steppers(), strict=True)
        ]

    def update(self, batch: Batch, factor: float) -> Tensor:
        """Step each model once, at the learning rate of its setting times `factor`; return the mean losses over the
        batch, (S,)."""
        arithmetic = self.trainer.autocast(self.training.world.device)
        for member in self.members:
            set_rates(member.stepper, member.optimizer.lr * self.model.phase.lr_factor * factor)
            member.stepper.zero_grad(set_to_none=False)  # gradients are rows of the mixture's
        with arithmetic.products():
            losses = torch.zeros(len(self.members), device=self.training.world.device)
            for part in batch.parts:
                with arithmetic:
                    outputs = self.outputs(part[0])
                sums = self._sums(outputs, part)
                (sums.sum() / batch.size).backward()
                losses += sums.detach() / batch.size
            for member in self.members:
                clip(member.stepper, self.trainer.clip_norm)
                member.stepper.step()
        return losses

    def outputs(self, inputs: Tensor | Observation) -> list[Tensor]:
        """Return the predictions (B, C) of each model, for images or what is stored of them."""
        if self.mixture is None:
            return [member.model(inputs) for member in self.members]
        if self.model.frozen is None:
            return self.mixture.of_all(self.model.normalize(inputs), depth=0)
        seen = inputs if isinstance(inputs, Observation) else self.model.observe(inputs)
        return self.mixture.of_all(seen, depth=self.model.depth)

    def epoch(self, images: Inputs, epoch: int, progress: Progress) -> Tensor:
        """Train one epoch and return the mean loss of each model, (S,)."""
        trainer, training, steps = self.trainer, self.training, -(-len(images) // self.trainer.batch_size)
        torch.manual_seed(derive(training.seed, "epoch", epoch, training.world.rank))
        losses = torch.zeros(len(self.members), device=training.world.device)
        for index, batch in enumerate(trainer.batches(images, training.seed, epoch, training.workers, training.world)):
            if not self._checked:
                self.check_same(batch)
                self._checked = True
            factor = training.schedule.factor(epoch * steps + index, trainer.epochs * steps)
            losses += self.update(batch, factor) / steps
            progress.advance(batch.size, epoch=f"{epoch + 1}/{trainer.epochs}")
        return losses

    def remember_best(self, val: Inputs) -> None:
        """Note what each model tuned, where the present epoch is its best on the validation images."""
        for member in self.members:
            found = self._scored(member, val)
            merit = Merit.of(found["val/accuracy"], found["val/loss"])
            member.best.epochs = self.training.state.epochs
            self.trainer.remember_best(member.model, member.best, merit)

    def chosen(self, losses: Tensor, val: Inputs | None) -> dict[str, Any]:
        """Put what the best model tuned into `model`, record a row for each setting, and return how it was chosen.
        `losses` (S,): the mean training losses of the last epoch."""
        rows = []
        for number, (member, loss) in enumerate(zip(self.members, losses.tolist(), strict=True)):
            if member.best.best is not None:
                member.model.load_state_dict(member.best.best["tuned"], strict=False)
            row = {**member.setting, "train/loss": loss, **({} if val is None else self._scored(member, val))}
            self.training.record({"epoch": number + 1, **row})  # one line for each setting
            rows.append(row)
        if not any(math.isfinite(loss) for loss in losses.tolist()):
            raise ConfigError(
                "the training loss of every setting of the grid became infinite; try a smaller optimizer.lr"
            )
        best = max(range(len(rows)), key=lambda index: merit_of_tried(rows[index]))  # the first of equal ones
        member, state = self.members[best], self.training.state
        self.model.load_state_dict(member.model.tuned_state(), strict=False)
        if member.best.best is not None:
            state.kept_epochs[self.model.phase.name] = member.best.best["epoch"]
        rule = rule_in_words(ACCURACY, "first") if val is not None else "the only one"
        facts = {"group": self.model.phase.group, "chosen": member.setting, "settings": len(rows)}
        return {**facts, "rule": rule, "tried": rows}

    def _scored(self, member: _Member, val: Inputs) -> dict[str, float]:
        """Score a model on the validation images; one that diverged has no right answers, and no loss."""
        if not all(bool(tensor.isfinite().all()) for tensor in member.model.tuned_state().values()):
            return {"val/accuracy": 0.0, "val/loss": math.nan}
        workers, world = self.training.workers, self.training.world
        found = self.trainer.evaluate(member.model, val, "val", workers=workers, world=world)
        member.model.train()
        return {name: found[name] for name in ("val/accuracy", "val/loss")}

    def saved(self) -> dict[str, Any]:
        """Return what the training goes on from, besides the number of epochs."""
        return {"members": [member.saved() for member in self.members]}

    def load(self, saved: Mapping[str, Any] | None) -> None:
        """Go on from what was saved, if anything was. Raise Damaged if the settings are not this grid's."""
        if saved is None:
            return
        found = saved.get("members")
        if not isinstance(found, list) or len(found) != len(self.members):
            raise Damaged("the settings of its grid are none of this run's")
        for member, values in zip(self.members, found, strict=True):
            member.load(values)

    def check_same(self, batch: Batch) -> None:
        """Raise ConfigError unless each model's gradient of a batch is that of `model` alone, whose values all have at
        the beginning: where modules of a method are tied to each other, change weights of the backbone in place, or
        draw at random, they train otherwise together than alone."""
        part = batch.parts[0]
        with torch.random.fork_rng(), torch.no_grad():
            drawn = []
            for seed in range(2):
                torch.manual_seed(seed)
                drawn.append(self.model(part[0]))
        if not torch.equal(*drawn) or _drops(self.model):
            raise ConfigError(
                "optimizer: Grid trains its settings in the same steps, and what drops at random would drop otherwise "
                "than in a run of one setting; set the rates of dropout and drop_path to 0"
            )
        self._sums([self.model(part[0])], part).sum().backward()
        alone = _gradients(self.model)
        self._sums(self.outputs(part[0]), part).sum().backward()
        length = torch.stack([gradient.norm() for gradient in alone.values()]).norm()
        for member in self.members:
            together = _gradients(member.model)
            apart = torch.stack([(together[name] - gradient).norm() for name, gradient in alone.items()]).norm()
            if not apart <= _TOLERANCE * length:
                raise ConfigError(
                    "optimizer: this method's modules share weights, or change the backbone's own, so its gradients "
                    f"for all settings at once are not those of one alone; {ADVICE}"
                )

    def _sums(self, outputs: Sequence[Tensor], part: Part) -> Tensor:
        loss, smoothing = self.model.criterion.loss, self.trainer.label_smoothing
        return torch.stack([loss(each.float(), part[1], label_smoothing=smoothing) for each in outputs])


def fit_together(
    model: Model, train: Source, val: Source | None, training: Training, *, solver: Grid, trainer: Trainer
) -> dict[str, Any]:
    """Train a model for each setting of the grid `solver` from the state of `training` to the last epoch, put what the
    best one tuned into `model`, and return how it was chosen; `training.record` gets a row for each setting.

    It is saved as `Trainer.fit` saves, and a run that goes on ends in the same weights. Raise Damaged if the settings
    in `training.state` are not this grid's.
    """
    state, world = training.state, training.world
    model.train()
    room = DeviceRoom(world.device, training.device_memory_gib)
    inputs, val = Inputs(train, room), None if val is None else Inputs(val, room)
    together = Together(model, solver, trainer, training)
    together.load(state.optimizer)
    what = f"training steps of {solver.num_settings} settings at once"
    less = "set fewer values in optimizer, or a smaller trainer.batch_size"
    total, done = trainer.epochs * len(inputs), state.epochs * len(inputs)
    label = f"training {solver.num_settings} models"
    losses, saved_at = torch.zeros(solver.num_settings), monotonic()
    with (
        needing_memory(what, world.device, less),
        Progress(label=label, total=total, unit="images", done=done) as progress,
        when_ready() as asked_by,
    ):
        for epoch in range(state.epochs, trainer.epochs):
            started = monotonic()
            losses = together.epoch(inputs, epoch, progress)
            state.train_seconds += monotonic() - started
            state.epochs, state.inputs = epoch + 1, inputs.record()
            if trainer.keep == "best" and val is not None:
                together.remember_best(val)
            if state.epochs < trainer.epochs and (asked_by() or monotonic() - saved_at >= trainer.save_seconds):
                state.optimizer = together.saved()
                training.save(state)
                saved_at = monotonic()
                if asked_by():
                    raise Stopped(asked_by())
    state.optimizer = None
    return together.chosen(losses, val)


def _twin(model: Model) -> Model:
    """Return a copy of a model that shares what never changes."""
    memo: dict[int, Any] = {id(held): held for held in model.parameters() if not held.requires_grad}
    memo |= {id(buffer): buffer for module in model.encoder.held() for buffer in module.buffers(recurse=False)}
    packed = [module.packed for module in model.modules() if isinstance(module, QuantizedLinear)]
    return copy.deepcopy(model, memo | {id(matrix): matrix for matrix in packed})


def _mixture(model: Model, twins: Sequence[Model]) -> Mixture:
    """Return the mixture of copies of a model. Raise ConfigError where their images cannot share a pass."""
    kept = [parameter for parameter in model.encoder.backbone_parameters if not parameter.requires_grad]
    kept += [buffer for module in model.encoder.held() for buffer in module.buffers(recurse=False)]
    shared = frozenset(tensor.data_ptr() for tensor in kept)
    for twin in twins:
        twin.round_observations_to(torch.float32)  # tokens that a pass goes on from are rounded before
    changes = [Changes(twin, shared) for twin in twins]
    if (reason := changes[0].reason) is not None:
        raise ConfigError(
            f"optimizer: Grid trains its settings in the same steps, and {reason}; use hydra/sweeper=tune"
        )
    mixture = Mixture(_bare(_twin(model).encoder, changes[0]), twins, changes, shared)
    mixture.let_train()
    return mixture


def _bare(encoder: Encoder, changes: Changes) -> Encoder:
    """Remove what a method added to an encoder, and return the encoder."""
    for path in changes.places:
        module = encoder.part(path)
        while isinstance(module, Around):
            module = module.inner
        encoder.replace(path, module)
    for layer in encoder.layers:
        if isinstance(layer, Ports):
            layer.entrance = layer.context = None
            for modules in (layer.beside_attention, layer.beside_mlp, layer.behind):
                del modules[:]
    return encoder


def _drops(model: Model) -> bool:
    """Return whether any module drops in training, whether or not that changes anything yet."""
    rates = [getattr(module, name, 0) for module in model.modules() if module.training for name in ("p", "drop_prob")]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _gradients(model: Model) -> dict[str, Tensor]:
    """Return the gradients of what trains, zeros where there are none, and forget them."""
    named = {name: parameter for name, parameter in model.trained().items() if parameter.requires_grad}
    found = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in named.items()
    }
    for parameter in named.values():
        if parameter.grad is not None:
            parameter.grad.zero_()
    return found
