"""This module passes the images of a data split through a model once, and scores what the model predicts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_vision.core.device_memory import SMALLER_PASS, needing_memory, on_device
from peft_vision.core.distributed import World
from peft_vision.core.progress import Progress
from peft_vision.data.images import Source
from peft_vision.models.model import Model


@dataclass(frozen=True)
class InferencePass:
    """The way in which images pass through a model once. `workers`: threads or processes that read them; `world`: the
    processes that share them; `label`: of the progress bar."""

    batch_size: int
    workers: int
    world: World
    autocast: torch.autocast
    label: str


def judged(model: Model, source: Source, inference: InferencePass) -> tuple[Tensor, ...]:
    """Return the columns of the model's criterion for every input of a split. Masks are compared at their own size."""

    def look(seen: Any, labels: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        outputs = model(seen).float()
        if source.whole_mask is None:
            return model.criterion.judge(outputs, labels)
        masks = [torch.from_numpy(source.whole_mask(index)) for index in indices.tolist()]
        return model.criterion.judge_whole(outputs, labels, masks)

    return columns(model, source, look, inference)


@torch.no_grad()
def columns(
    model: nn.Module,
    source: Source,
    look: Callable[[Any, Tensor, Tensor], tuple[Tensor, ...]],
    inference: InferencePass,
) -> tuple[Tensor, ...]:
    """Return what `look` computes from each input, its label and its place in `source`, with `model` in evaluation
    mode: tensors (n, ...), all in the same order. Each process computes a part, and all get the whole."""
    was_training, world = model.training, inference.world
    model.eval()
    batches = [world.share(batch) for batch in torch.arange(len(source)).split(inference.batch_size * world.size)]
    rows: list[tuple[Tensor, ...]] = []
    room = needing_memory(f"a forward pass of {inference.batch_size} images", world.device, SMALLER_PASS)
    with Progress(label=inference.label, total=len(source), unit="images") as progress, inference.autocast, room:
        inputs = on_device(source.batches(batches, seed=None, workers=inference.workers), world.device)
        for (seen, labels), indices in zip(inputs, batches, strict=True):
            rows.append(look(seen, labels, indices))
            progress.advance(len(labels) * world.size)
    model.train(was_training)
    process_columns = tuple(torch.cat(column).cpu() for column in zip(*rows, strict=True))
    return tuple(torch.cat(column) for column in zip(*world.gather(process_columns), strict=True))
