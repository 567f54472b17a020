"""How long it takes to read a picture of a data set, as a run reads it."""

from time import perf_counter

import torch

from peft_vision.config import ConfigError
from peft_vision.experiment import Experiment

_SAMPLE = 48  # pictures


def seconds_for_a_picture(experiment: Experiment) -> float | None:
    """With the run's threads; None where the pictures are not here."""
    data = experiment.data
    try:
        train = experiment.data.parts()["train"]
    except ConfigError:
        return None
    sample = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:_SAMPLE])
    started = perf_counter()
    data.load_other(sample, experiment.backbone.preprocessing(), label="sampled")
    return (perf_counter() - started) / len(sample)
