"""This module scores one model on one set of images: its predictions, and how far its features have moved.

Feature distance: the mean Euclidean distance between the final norm's outputs before and after tuning, the distortion
of LP-FT (Kumar et al., 2022, arXiv:2202.10054); relative: divided by the mean length of the features before.
"""

from typing import Any

import torch
from torch import Tensor

from peft_vision.backbone.observation import Observation
from peft_vision.data.images import Source
from peft_vision.models.model import Model
from peft_vision.training.evaluate import Predictions, columns, judge


def score(
    model: Model, source: Source, *, predictable: Tensor, before: Tensor | None, **options: Any
) -> tuple[Predictions, dict[str, float]]:
    """Return the predictions among the classes that are `predictable`, (num_classes,) bool, and the mean distances from
    the features `before`, (n, D), or no distances without them. `options` are those of `columns`."""
    kinds = model.readout.reads | {"features"}
    hidden = ~predictable.to(options["world"].device)

    def look(seen: Tensor | Observation, labels: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        if isinstance(seen, Tensor):
            seen = model.observe(seen, None if model.frozen else kinds)
        if seen.tokens is not None:
            seen = model.encoder.resume(seen.tokens, kinds, depth=model.depth)
        logits = model.logits(model.readout(seen)).float().masked_fill(hidden, -torch.inf)
        image_distances = torch.zeros(len(labels))
        if before is not None and seen.features is not None:  # else the encoder is bare, so its features never move
            image_distances = (seen.features.float().cpu() - before[indices]).norm(dim=1)
        return (*judge(logits, labels), image_distances)

    *predictions, distances = columns(model, source, look, **options)
    if before is None:
        return Predictions(*predictions), {}
    distance = distances.double().mean().item()
    length = before.double().norm(dim=1).mean().item()
    return Predictions(*predictions), {"feature_distance": distance, "feature_distance_relative": distance / length}
