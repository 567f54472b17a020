"""This module loads the models that one run is scored as: the tuned one, its first phase's, and interpolated ones."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from peft_vision.backbone.load import load_backbone
from peft_vision.backbone.observation import Observation
from peft_vision.core.composition import option
from peft_vision.core.config import ConfigError
from peft_vision.core.seeding import derive
from peft_vision.data.images import Source
from peft_vision.interpolation.wise_ft import between, changed
from peft_vision.models.adapter import Recipe, load_probe
from peft_vision.models.model import Model
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.saved import Saved, open_saved
from peft_vision.training.evaluate import InferencePass, columns, judged
from peft_vision.training.phases import begin_next_phase

FINAL, PROBE = "final", "probe"


def at(alpha: float) -> str:
    """Return the name of the model that is interpolated at `alpha`."""
    return f"alpha={alpha:g}"


class Models:
    """The models of a finished run. Those assembled on demand are used one at a time, so at most three hold weights."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.saved: Saved = open_saved(str(experiment.run.folder), checkpoint=None, device=device)
        self.device = device
        self._experiment = experiment
        self.final: Model = self.saved.model
        self.probe = self._start(begun=1).to(device).eval() if experiment.run.probe.is_file() else None
        self._before: dict[str, Tensor] | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.saved.recipe

    def pretrained(self) -> Model:
        """Return a model of the bare backbone, as it was before anything was tuned."""
        vit = self._backbone()
        recipe = replace(self.recipe, method=option("method", "linear"))
        return recipe.assemble(vit, seed=0).to(self.device).eval()

    def named(self, name: str) -> Model:
        """Return the model of this name, FINAL or PROBE."""
        return {FINAL: self.final, PROBE: self.probe}[name]

    @contextmanager
    def interpolated(self, alpha: float) -> Iterator[Model]:
        """Yield the tuned model, interpolated at `alpha` within the block."""
        if self._before is None:
            start = self._start(begun=self.final.begun).to(self.device).eval()
            goes_on = self.probe is not None and all(phase.head is None for phase in self.final.phases)
            self._before = {
                name: tensor
                for name, tensor in changed(start, self.final).items()
                if not name.startswith(("criterion.",) if goes_on else ("criterion.", "head."))
            }
        with between(self._before, self.final) as set_alpha:
            set_alpha(alpha)
            yield self.final

    def _backbone(self) -> VisionTransformer:
        """Load the backbone as it was before the run."""
        timm = logging.getLogger("timm")
        level = timm.level
        timm.setLevel(logging.WARNING)  # the run has already logged what was resampled
        try:
            return load_backbone(self._experiment.backbone, seed=self._experiment.seed)
        finally:
            timm.setLevel(level)

    def _start(self, *, begun: int) -> Model:
        """Return the model that the run started from, in a given phase: the method's initial values, and the head of
        the first phase if it was fitted on its own."""
        experiment = self._experiment
        model = self.recipe.assemble(self._backbone(), seed=derive(experiment.seed, "initialisation"))
        if not model.criterion.chooses:  # older files of a probe lack what is learned of training labels
            model.criterion.load_state_dict(self.final.criterion.state_dict())
        if experiment.run.probe.is_file():
            try:
                load_probe(model, experiment.run.probe)
            except ValueError as error:
                raise ConfigError(f"{experiment.run.probe}: {error}") from error
        while model.begun < begun:
            begin_next_phase(model, seed=experiment.seed)
        model.round_observations_to(self.final.observed_type, grid=self.final.grid_type)
        return model


def score(
    model: Model, source: Source, inference: InferencePass, *, predictable: Tensor, before: Tensor | None
) -> tuple[tuple[Tensor, ...], dict[str, float]]:
    """Return the columns of the model's criterion, computed among the classes that are `predictable`, (num_classes,)
    bool, and the mean distances from the features `before`, (n, D), or no distances without them."""
    if model.segments:
        return judged(model, source, inference), {}
    kinds = model.readout.reads | {"features"}
    hidden = ~predictable.to(inference.world.device)

    def look(seen: Tensor | Observation, labels: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        if isinstance(seen, Tensor):
            seen = model.observe(seen, None if model.frozen else kinds)
        if seen.tokens is not None:
            seen = model.encoder.resume(seen.tokens, kinds, depth=model.depth)
        outputs = model.logits(model.readout(seen)).float().masked_fill(hidden, -torch.inf)
        image_distances = torch.zeros(len(labels))
        if before is not None and seen.features is not None:  # else the encoder is bare, so its features never move
            image_distances = (seen.features.float().cpu() - before[indices]).norm(dim=1)
        return (*model.criterion.judge(outputs, labels), image_distances)

    *found, distances = columns(model, source, look, inference)
    if before is None:
        return tuple(found), {}
    distance = distances.double().mean().item()
    length = before.double().norm(dim=1).mean().item()
    return tuple(found), {"feature_distance": distance, "feature_distance_relative": distance / length}
