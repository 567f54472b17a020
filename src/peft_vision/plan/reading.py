"""This module measures how long it takes to read a picture of a data set, as a run reads it."""

from time import perf_counter

import torch

from peft_vision.plan.demand import RunGroup

_SAMPLE = 48  # pictures


def seconds_for_a_picture(demand: RunGroup) -> float | None:
    """Return the seconds to read a picture with the run's threads, or None if the pictures are not here."""
    experiment, parts = demand.experiment, demand.content.parts
    if parts is None:
        return None
    train = parts["train"]
    sample = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:_SAMPLE])
    started = perf_counter()
    experiment.data.load_other(sample, experiment.backbone.preprocessing(), label="sampled")
    return (perf_counter() - started) / len(sample)
