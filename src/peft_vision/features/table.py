"""This module computes the head's features of a whole split, for training that only fits the head."""

import torch

from peft_vision.core.device_memory import SMALLER_PASS, needing_memory
from peft_vision.core.progress import Progress
from peft_vision.core.transfer import on_device
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
    room = needing_memory(f"a forward pass of {batch_size} images", device, SMALLER_PASS)
    with Progress(label="features", total=len(source), unit="images") as progress, autocast, room:
        for seen, batch_labels in on_device(source.in_order(batch_size=batch_size, workers=workers), device):
            features.append(model.features(seen).float().cpu())
            labels.append(batch_labels.cpu())
            progress.advance(len(batch_labels))
    model.train(was_training)
    return FeatureTable(torch.cat(labels), torch.cat(features))
