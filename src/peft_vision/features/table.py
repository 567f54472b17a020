"""The features a head reads, of a whole split, for whatever trains nothing but the head."""

import torch

from peft_vision.data.images import Source
from peft_vision.features.source import Table
from peft_vision.model import Model
from peft_vision.progress import Progress


@torch.no_grad()
def tabulated(
    model: Model, source: Source, *, batch_size: int, workers: int, autocast: torch.autocast, device: torch.device
) -> Table:
    """`model`'s features of every input that `source` may give, in evaluation mode, in memory, on the CPU."""
    was_training = model.training
    model.eval()
    features, labels = [], []
    with Progress(label="features", total=len(source), unit="images") as progress, autocast:
        for seen, its_labels in source.in_order(batch_size=batch_size, workers=workers):
            features.append(model.features(seen.to(device, non_blocking=True)).float().cpu())
            labels.append(its_labels)
            progress.advance(len(its_labels))
    model.train(was_training)
    return Table(torch.cat(labels), torch.cat(features))
