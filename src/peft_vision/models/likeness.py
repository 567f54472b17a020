"""This module compares models by what they compute for two fixed pictures.

Equal weights do not make equal models: the pooling, the number of heads, the activation and the eps of a norm are not
weights.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from peft_vision.core.preprocessing import Size, sides_of
from peft_vision.core.records import Finite, Record
from peft_vision.models.model import Model

_PICTURES = 2
_SHOWN = 64  # most features, and most logits, that are saved of each picture
_TOLERANCE = 1e-3  # relative to their length: other threads, devices and versions of torch differ by 1e-5 at most
_Values = Annotated[list[Annotated[list[Finite], Field(min_length=1, max_length=_SHOWN)]], Field(max_length=_PICTURES)]


class Likeness(Record):
    """A record of evenly spaced features and logits of each picture; `eps`: those of the encoder's norms, sorted."""

    features: _Values
    logits: _Values
    eps: Annotated[list[Finite], Field(max_length=1000)]


@torch.no_grad()
def likeness(model: Model) -> Likeness | None:
    """Return the likeness of a model in evaluation mode, and leave the model as it is. None if some parameter is not in
    single precision, or an output is not finite."""
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return None
    device = next(model.parameters()).device
    with _plainly(model, device.type):
        shown = model.recipe.preprocessing
        features = model.features(pictures(shown.size, channels=shown.channels).to(device))
        logits = model.logits(features)
    if not (features.isfinite().all() and logits.isfinite().all()):
        return None
    eps = {module.eps for module in model.encoder.modules() if isinstance(getattr(module, "eps", None), float)}
    return Likeness(features=_some(features.flatten(1)), logits=_some(logits.flatten(1)), eps=sorted(eps))


def pictures(size: Size, *, channels: int = 3) -> Tensor:
    """Return (2, channels, *size) floats in the range of normalised images, equal on every machine."""
    shape = (_PICTURES, channels, *sides_of(size))
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return numbers.square().mul(0.7).sin().mul(1.5).float().view(shape)


def unlike(model: Model, saved: Likeness) -> str | None:
    """Return in words how `model` computes something else than the saved model; None if it does not."""
    computed = likeness(model)
    if computed is None:
        return "it computes no finite numbers, or not in single precision"
    if computed.eps != saved.eps:
        return f"its norms have eps {_listed(computed.eps)}, those of the file's {_listed(saved.eps)}"
    for what in ("features", "logits"):
        difference = _difference(getattr(computed, what), getattr(saved, what))
        if not difference <= _TOLERANCE:
            return f"of a fixed picture its {what} differ by {100 * min(difference, 99):.2g} % of their length"
    return None


@contextmanager
def _plainly(model: Model, device: str) -> Iterator[None]:
    """Compute without dropout, autocast, rounding of observations and TF32 within the block."""
    modes = {module: module.training for module in model.modules()}
    observed, grid, precision = model.observed_type, model.grid_type, torch.get_float32_matmul_precision()
    model.eval()
    model.round_observations_to(torch.float32)
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        model.round_observations_to(observed, grid=grid)
        for module, mode in modes.items():
            module.training = mode


def _some(values: Tensor) -> list[list[float]]:
    """Return evenly spaced values of each row, at most _SHOWN, rounded to seven digits."""
    width = values.shape[1]
    index = torch.linspace(0, width - 1, min(width, _SHOWN), dtype=torch.float64).round().long()
    return [[float(f"{value:.7g}") for value in row] for row in values.double().cpu()[:, index].tolist()]


def _difference(computed: Sequence[Sequence[float]], saved: Sequence[Sequence[float]]) -> float:
    """Return the largest distance between rows relative to the length of the saved row; infinite for other shapes."""
    if list(map(len, computed)) != list(map(len, saved)):
        return math.inf
    return max((math.dist(a, b) / (math.hypot(*b) or 1) for a, b in zip(computed, saved, strict=True)), default=0)


def _listed(eps: Sequence[float]) -> str:
    return " and ".join(f"{value:g}" for value in eps) or "none"
