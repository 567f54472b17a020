"""This module trains one model for each setting of a grid, and each of its seeds, in the same steps, on one frozen
backbone.

Each batch passes the backbone once for all settings (`mixing/mixture.py`): the layers before the first one that the
method changes see its images once, and the others' frozen products have the rows of all settings. What the method added
is stacked over the settings. Each model steps by its own rate and decay and sees the batches of a single run, which it
equals up to the order of sums. Validation chooses one of the settings, as among the probes of a grid.

A seed decides the initial values of method and head, the order of the images and how each is augmented. The models of
one seed see the same batch; each of several seeds has its own, and their rows pass the backbone together. The setting
is then chosen by the mean over the seeds.
"""

import math
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from peft_vision.backbone.observation import Observation
from peft_vision.core.config import ConfigError
from peft_vision.core.device_memory import DeviceRoom, needing_memory
from peft_vision.core.progress import Progress
from peft_vision.core.seeding import derive
from peft_vision.core.stopping import Stopped, when_ready
from peft_vision.core.tensor_files import Damaged
from peft_vision.data.images import Source
from peft_vision.models.model import Model
from peft_vision.objective.base import ACCURACY, Merit, rule_in_words
from peft_vision.optimizer.grid import Grid
from peft_vision.training.checks import ADVICE
from peft_vision.training.inputs import Inputs
from peft_vision.training.members import Member, best_setting
from peft_vision.training.model_copies import drops, gradients_of, mixed, twin
from peft_vision.training.step import Batch, Part, clip, set_rates
from peft_vision.training.train_state import Training
from peft_vision.training.trainer import Trainer

_TOLERANCE = 1e-3  # relative to the length of a gradient


class Together:
    """Models, one for each setting of a grid and each of its seeds, that step together. Those of the run's own seed
    begin as `model`, and those of another as `training.initial` says."""

    def __init__(self, model: Model, grid: Grid, trainer: Trainer, training: Training) -> None:
        self.model, self.trainer, self.training = model, trainer, training
        self.seeds = grid.seeds or (training.seed,)
        self.initial = {**training.initial, training.seed: _copied(model.tuned_state())}
        begun = [self._begun(seed) for seed in self.seeds]
        twins = [twin(first) for first in begun for _ in range(grid.num_settings)]
        alone = model.frozen == model.readout.reads  # only what reads the backbone trains
        self.mixture = None if alone else mixed(model, twins)
        if self.mixture is not None:
            self.mixture.encoder.set_checkpointing(trainer.checkpointing)
        self._checked = training.state.epochs > 0  # by then all have values of their own
        self.members: list[Member] = []
        for group, seed in enumerate(self.seeds):
            drawn = derive(seed, "optimizer", model.begun)
            for optimizer in grid.steppers():
                own = twins[len(self.members)].train()
                self.members.append(Member(own, optimizer, optimizer.create(own, seed=drawn), seed, group))

    @property
    def num_settings(self) -> int:
        """Return the number of settings, each of which trains with every seed."""
        return len(self.members) // len(self.seeds)

    def _begun(self, seed: int) -> Model:
        """Return the model with which the run of a seed begins."""
        if seed == self.training.seed:
            return self.model
        first = twin(self.model, own=self.initial[seed])
        first.load_state_dict(dict(self.initial[seed]), strict=False)
        return first

    def update(self, batches: Sequence[Batch], factor: float) -> Tensor:
        """Step each model once, by the batch of its seed, at the learning rate of its setting times `factor`; return
        the mean losses over the batch, (M,)."""
        arithmetic = self.trainer.autocast(self.training.world.device)
        for member in self.members:
            set_rates(member.stepper, member.optimizer.lr * self.model.phase.lr_factor * factor)
            member.stepper.zero_grad(set_to_none=False)  # gradients are rows of the mixture's
        with arithmetic.products():
            losses, size = torch.zeros(len(self.members), device=self.training.world.device), batches[0].size
            for parts in zip(*(batch.parts for batch in batches), strict=True):
                with arithmetic:
                    outputs = self.outputs([inputs for inputs, _ in parts])
                sums = self._sums(outputs, [parts[member.group] for member in self.members])
                (sums.sum() / size).backward()
                losses += sums.detach() / size
            for member in self.members:
                clip(member.stepper, self.trainer.clip_norm)
                member.stepper.step()
        return losses

    def outputs(self, inputs: Sequence[Tensor | Observation]) -> list[Tensor]:
        """Return the predictions (B, C) of each model, for the images of each seed or what is stored of them."""
        if self.model.frozen is None:
            entering = [self.model.normalize(images) for images in inputs]
            return self.mixture.of_all([entering[member.group] for member in self.members], depth=0)
        seen = [each if isinstance(each, Observation) else self.model.observe(each) for each in inputs]
        if self.mixture is None:
            return [member.model(seen[member.group]) for member in self.members]
        tokens = [each.tokens for each in seen]
        return self.mixture.of_all([tokens[member.group] for member in self.members], depth=self.model.depth)

    def epoch(self, images: Inputs, epoch: int, progress: Progress) -> Tensor:
        """Train one epoch and return the mean loss of each model, (M,)."""
        trainer, training, steps = self.trainer, self.training, -(-len(images) // self.trainer.batch_size)
        torch.manual_seed(derive(training.seed, "epoch", epoch, training.world.rank))
        losses = torch.zeros(len(self.members), device=training.world.device)
        workers = -(-training.workers // len(self.seeds))
        of_seeds = [trainer.batches(images, seed, epoch, workers, training.world) for seed in self.seeds]
        for index, batches in enumerate(zip(*of_seeds, strict=True)):
            if not self._checked:
                self.check_same(batches)
                self._checked = True
            factor = training.schedule.factor(epoch * steps + index, trainer.epochs * steps)
            losses += self.update(batches, factor) / steps
            progress.advance(batches[0].size, epoch=f"{epoch + 1}/{trainer.epochs}")
        return losses

    def remember_best(self, val: Inputs) -> None:
        """Note what each model tuned, where the present epoch is its best on the validation images."""
        for member in self.members:
            found = self._scored(member, val)
            merit = Merit.of(found["val/accuracy"], found["val/loss"])
            member.best.epochs = self.training.state.epochs
            self.trainer.remember_best(member.model, member.best, merit)

    def chosen(self, losses: Tensor, val: Inputs | None) -> dict[str, Any]:
        """Put what the best setting tuned into `model`, that of the run's own seed, and into the state what it tuned
        with others; record a row for each model, and return how the setting was chosen. `losses` (M,): the mean
        training losses of the last epoch."""
        rows, several = [], len(self.seeds) > 1
        for number, (member, loss) in enumerate(zip(self.members, losses.tolist(), strict=True)):
            member.take_best()
            seed = {"seed": member.seed} if several else {}
            row = {**member.setting, **seed, "train/loss": loss, **({} if val is None else self._scored(member, val))}
            self.training.record({"epoch": number + 1, **row})  # one line for each model
            rows.append(row)
        best = best_setting(rows, num_settings=self.num_settings)
        if not all(math.isfinite(row["train/loss"]) for row in rows[best :: self.num_settings]):
            with_seeds = " with one seed or more" if several else ""
            raise ConfigError(
                f"the training loss of every setting of the grid became infinite{with_seeds}; "
                "try a smaller optimizer.lr"
            )
        state = self.training.state
        for member in self.members[best :: self.num_settings]:
            tuned = member.model.tuned_state()
            if member.seed != self.training.seed:
                state.of_seeds[member.seed] = {name: tensor.to("cpu", copy=True) for name, tensor in tuned.items()}
                continue
            self.model.load_state_dict(tuned, strict=False)
            if member.best.best is not None:
                state.kept_epochs[self.model.phase.name] = member.best.best["epoch"]
        setting = self.members[best].setting
        facts = {"group": self.model.phase.group, "chosen": setting, "settings": self.num_settings}
        return {**facts, "rule": self._rule(val), "tried": rows}

    def _rule(self, val: Inputs | None) -> str:
        if val is None:
            return "the only one"
        means = f", both as means over {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return rule_in_words(ACCURACY, "first") + means

    def _scored(self, member: Member, val: Inputs) -> dict[str, float]:
        """Score a model on the validation images; one that diverged has no right answers, and no loss."""
        if not all(bool(tensor.isfinite().all()) for tensor in member.model.tuned_state().values()):
            return {"val/accuracy": 0.0, "val/loss": math.nan}
        workers, world = self.training.workers, self.training.world
        found = self.trainer.evaluate(member.model, val, "val", workers=workers, world=world)
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

    def check_same(self, batches: Sequence[Batch]) -> None:
        """Raise ConfigError unless each model's gradient of its batch is that of `model` alone with the values that
        those of its seed have at the beginning: where modules of a method are tied to each other, change weights of the
        backbone in place, or draw at random, they train otherwise together than alone."""
        parts = [batch.parts[0] for batch in batches]
        with torch.random.fork_rng(), torch.no_grad():
            drawn = []
            for seed in range(2):
                torch.manual_seed(seed)
                drawn.append(self.model(parts[0][0]))
        if not torch.equal(*drawn) or drops(self.model):
            raise ConfigError(
                "optimizer: Grid trains its settings in the same steps, and what drops at random would drop otherwise "
                "than in a run of one setting; set the rates of dropout and drop_path to 0"
            )
        alone = [self._gradients_alone(seed, part) for seed, part in zip(self.seeds, parts, strict=True)]
        outputs = self.outputs([inputs for inputs, _ in parts])
        self._sums(outputs, [parts[member.group] for member in self.members]).sum().backward()
        for member in self.members:
            together, own = gradients_of(member.model), alone[member.group]
            length = torch.stack([gradient.norm() for gradient in own.values()]).norm()
            apart = torch.stack([(together[name] - gradient).norm() for name, gradient in own.items()]).norm()
            if not apart <= _TOLERANCE * length:
                raise ConfigError(
                    "optimizer: this method's modules share weights, or change the backbone's own, so its gradients "
                    f"for all settings at once are not those of one alone; {ADVICE}"
                )

    def _gradients_alone(self, seed: int, part: Part) -> dict[str, Tensor]:
        """Return the gradients of `model` alone with the initial values of a seed, which it has only meanwhile."""
        self.model.load_state_dict(dict(self.initial[seed]), strict=False)
        self._sums([self.model(part[0])], [part]).sum().backward()
        self.model.load_state_dict(self.initial[self.training.seed], strict=False)
        return gradients_of(self.model)

    def _sums(self, outputs: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
        """Return the sum of the losses of each model over its images."""
        loss, smoothing = self.model.criterion.loss, self.trainer.label_smoothing
        pairs = zip(outputs, parts, strict=True)
        return torch.stack([loss(each.float(), labels, label_smoothing=smoothing) for each, (_, labels) in pairs])


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def fit_together(
    model: Model, train: Source, val: Source | None, training: Training, *, solver: Grid, trainer: Trainer
) -> dict[str, Any]:
    """Train a model for each setting and seed of the grid `solver` from the state of `training` to the last epoch, put
    what the best setting tuned into `model`, and return how it was chosen; `training.record` gets a row for each model.

    It is saved as `Trainer.fit` saves, and a run that goes on ends in the same weights. Raise Damaged if the settings
    in `training.state` are not this grid's.
    """
    state, world = training.state, training.world
    model.train()
    room = DeviceRoom(world.device, training.device_memory_gib)
    inputs, val = Inputs(train, room), None if val is None else Inputs(val, room)
    together = Together(model, solver, trainer, training)
    together.load(state.optimizer)
    what = f"training steps of {len(together.members)} models at once"
    less = "set fewer values in optimizer, or a smaller trainer.batch_size"
    total, done = trainer.epochs * len(inputs), state.epochs * len(inputs)
    label = f"training {len(together.members)} models"
    losses, saved_at = torch.zeros(len(together.members)), monotonic()
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
        state.optimizer, state.selection = None, together.chosen(losses, val)
        training.save(state)  # here, where a signal that came in the last epoch has not ended the run yet
    return state.selection
