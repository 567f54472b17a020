"""This module passes the images of a data split through a model once, and scores what the model predicts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_vision.core.device_memory import SMALLER_PASS, needing_memory, on_device
from peft_vision.core.distributed import World
from peft_vision.core.progress import Progress
from peft_vision.data.images import Source
from peft_vision.models.model import Model
from peft_vision.objective.predictions import KeptPredictions


@dataclass(frozen=True)
class InferencePass:
    """The way in which images pass through a model once. `workers`: threads or processes that read them; `world`: the
    processes that share them; `label`: of the progress bar."""

    batch_size: int
    workers: int
    world: World
    autocast: torch.autocast
    label: str


def judged(model: Model, source: Source, inference: InferencePass, *, keeps: bool = False) -> tuple[Tensor, ...]:
    """Return the columns of the model's criterion for every input of a split, with those of what is kept of predictions
    if `keeps`. Masks are compared at their own size; windows are put together, so that the columns are those of the
    pictures."""
    if source.windows is not None:
        return _judged_in_windows(model, source, inference)

    def look(seen: Any, labels: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        outputs = model(seen).float()
        kept = model.criterion.kept(outputs) if keeps else ()
        if source.whole_mask is None:
            return (*model.criterion.judge(outputs, labels), *kept)
        masks = [torch.from_numpy(source.whole_mask(index)) for index in indices.tolist()]
        return (*model.criterion.judge_whole(outputs, labels, masks), *kept)

    return columns(model, source, look, inference)


def metrics_of(model: Model, found: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Return the metrics in the columns of each split, as `val/accuracy` and so on."""
    scores = {split: model.criterion.scores(split_columns) for split, split_columns in found.items()}
    return {f"{split}/{name}": value for split, metrics in scores.items() for name, value in metrics.items()}


def predictions_of(model: Model, found: Mapping[str, Sequence[Tensor]]) -> dict[str, KeptPredictions]:
    """Return the predictions in the columns of each split, kept ones included; nothing for a criterion that keeps
    none."""
    classes = model.recipe.classes
    made = {split: model.criterion.predictions(split_columns, classes) for split, split_columns in found.items()}
    return {split: predictions for split, predictions in made.items() if predictions is not None}


@torch.no_grad()
def _judged_in_windows(model: Model, source: Source, inference: InferencePass) -> tuple[Tensor, ...]:
    """Return the columns of pictures whose windows are the inputs of `source`, each process those of a part of them."""
    world, windows = inference.world, source.windows
    places = world.share(torch.arange(len(windows.sides))).tolist()
    asked = places or [0]  # a process without a picture computes one, whose rows are left out
    index_batches = torch.cat([windows.of(place) for place in asked]).split(inference.batch_size)
    rows: list[tuple[Tensor, ...]] = []
    with _evaluating(model, len(source), inference, unit="windows") as progress:

        def outputs() -> Iterator[Tensor]:
            inputs = source.batches(index_batches, seed=None, workers=inference.workers)
            for seen, labels in on_device(inputs, world.device):
                yield model(seen).float()
                progress.advance(len(labels) * world.size)

        for place, logits in zip(asked, windows.averaged(outputs(), asked), strict=True):
            mask = source.whole_mask(place)
            labels = windows.resized(mask).to(logits.device)
            rows.append(model.criterion.judge_whole(logits[None], labels[None], [torch.from_numpy(mask)]))
    return _gathered(rows, torch.tensor(places, dtype=torch.long), world)


@torch.no_grad()
def columns(
    model: nn.Module,
    source: Source,
    look: Callable[[Any, Tensor, Tensor], tuple[Tensor, ...]],
    inference: InferencePass,
) -> tuple[Tensor, ...]:
    """Return what `look` computes from each input, its label and its place in `source`, with `model` in evaluation
    mode: tensors (n, ...), in the order of `source`. Each process computes a part, and all get the whole."""
    world = inference.world
    batches = [world.share(batch) for batch in torch.arange(len(source)).split(inference.batch_size * world.size)]
    rows: list[tuple[Tensor, ...]] = []
    with _evaluating(model, len(source), inference, unit="images") as progress:
        inputs = on_device(source.batches(batches, seed=None, workers=inference.workers), world.device)
        for (seen, labels), indices in zip(inputs, batches, strict=True):
            rows.append(look(seen, labels, indices))
            progress.advance(len(labels) * world.size)
    return _gathered(rows, torch.cat(batches), world)


@contextmanager
def _evaluating(model: nn.Module, total: int, inference: InferencePass, *, unit: str) -> Iterator[Progress]:
    """Put the model into evaluation mode, and yield the progress of a pass of `total` inputs."""
    was_training = model.training
    model.eval()
    room = needing_memory(f"a forward pass of {inference.batch_size} {unit}", inference.world.device, SMALLER_PASS)
    with Progress(label=inference.label, total=total, unit=unit) as progress, inference.autocast, room:
        yield progress
    model.train(was_training)


def _gathered(rows: list[tuple[Tensor, ...]], places: Tensor, world: World) -> tuple[Tensor, ...]:
    """Return the columns of all processes in the order of the source, of which the first rows of this process are those
    at `places` (n,)."""
    own = tuple(torch.cat(column)[: len(places)].cpu() for column in zip(*rows, strict=True))
    if world.size == 1:
        return own
    all_places, *found = (torch.cat(column) for column in zip(*world.gather((places, *own)), strict=True))
    order = all_places.argsort()
    return tuple(column[order] for column in found)
