"""This module computes the head's features of a whole split, for training that only fits the head."""

import torch

from peft_vision.core.progress import Progress
from peft_vision.data.images import Source
from peft_vision.features.source import FeatureTable
from peft_vision.models.model import Model


@torch.no_grad()
def tabulated(
    model: Model, source: Source, *, batch_size: int, workers: int, autocast: torch.autocast, device: torch.device
) -> FeatureTable:
    """Return the features and labels of all inputs of `source`, every view included, computed in evaluation mode and
    kept in memory on the CPU."""
    was_training = model.training
    model.eval()
    features, labels = [], []
    with Progress(label="features", total=len(source), unit="images") as progress, autocast:
        for seen, batch_labels in source.in_order(batch_size=batch_size, workers=workers):
            features.append(model.features(seen.to(device, non_blocking=True)).float().cpu())
            labels.append(batch_labels)
            progress.advance(len(batch_labels))
    model.train(was_training)
    return FeatureTable(torch.cat(labels), torch.cat(features))
