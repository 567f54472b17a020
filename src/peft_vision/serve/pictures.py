"""This module makes a model's images of pictures that strangers send, and answers of its predictions.

A picture is opened by `data/decode.py` alone: in a few formats, whatever it is called, within this process. Its size is
known before its pixels are read, and one with too many is refused.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.data.bands import OtherChannels, counted
from peft_vision.data.decode import UNREADABLE, Geometry, open_bytes, picture_of
from peft_vision.mixing.adapter_set import AdapterSet
from peft_vision.objective.base import Objective
from peft_vision.runs.saved import Saved


class Refused(Exception):
    """The error for a request that cannot be answered: the HTTP `status`, and one line for who sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter that is served. `geometry`: how pictures become its images."""

    name: str
    saved: Saved
    objective: Objective
    geometry: Geometry

    @classmethod
    def of(cls, name: str, saved: Saved, *, resize: str | None) -> "ServedAdapter":
        """Return the adapter of a saved run. Raise ConfigError for one that segments, whose answers are pictures."""
        if saved.model.segments:
            raise ConfigError(
                f"runs: {saved.folder.name} gives a class to each pixel, which task=serve does not answer; "
                "task=predict writes its masks"
            )
        return cls(name, saved, saved.objective, saved.geometry(resize))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes or targets."""
        return self.saved.recipe.classes

    def described(self) -> dict[str, Any]:
        """Return what a client is told of the adapter."""
        return {
            "name": self.name,
            "learned": self.objective.labels_are,
            "classes": list(self.classes),
            "image_size": list(self.saved.recipe.preprocessing.sides),
        }

    def answer(self, predicted: Tensor, *, top: int) -> dict[str, Any]:
        """Return the answer for one picture from its predictions (C,): the likeliest classes with their probabilities,
        the classes that are present too where there are several, or numbers."""
        criterion = self.saved.model.criterion
        values = criterion.answers(predicted.float().cpu()[None])[0].tolist()
        if not all(map(_is_finite, values)):
            raise Refused(500, "the model's predictions of this picture are not finite")
        answer: dict[str, Any] = {"adapter": self.name}
        if self.objective.labels_are == "numbers":
            return answer | {"values": dict(zip(self.classes, values, strict=True))}
        order = sorted(range(len(values)), key=lambda label: -values[label])
        likeliest = [{"class": self.classes[label], "probability": values[label]} for label in order[:top]]
        if self.objective.labels_are == "several":
            threshold = float(getattr(criterion, "threshold", 0.5))
            present = [self.classes[label] for label in order if values[label] >= threshold]
            return answer | {"present": present, "threshold": threshold, "classes": likeliest}
        return answer | {"class": likeliest[0]["class"], "classes": likeliest}


def _is_finite(value: float) -> bool:
    return value - value == 0


def image_of(content: bytes, geometry: Geometry, *, most_pixels: int) -> Tensor:
    """Return a picture as a model's image, uint8 (C, H, W). Raise Refused for what is no picture, or one too large."""
    try:
        with suppress(UnidentifiedImageError), open_bytes(content) as opened:  # arrays are bounded by their own reader
            _check_size(opened.size, most_pixels)
        picture = picture_of(content, geometry.channels)
        _check_size(picture.size, most_pixels)
        return torch.from_numpy(geometry.apply(picture).copy())
    except OtherChannels as error:
        if (error.found, error.wanted) == (3, 1):
            raise Refused(415, "the picture has colours, and the adapter takes grey ones") from error
        raise Refused(415, f"the picture has {counted(error.found)}, and the adapter takes {error.wanted}") from error
    except UNREADABLE as error:
        said = one_line(str(error) or type(error).__name__)
        raise Refused(415, f"the body is no picture that can be read: {said}") from error


def _check_size(size: tuple[int, int], most_pixels: int) -> None:
    width, height = size
    if width * height > most_pixels:
        raise Refused(413, f"the picture has {width} x {height} pixels, at most {most_pixels:,} are taken")


@dataclass(frozen=True)
class Service:
    """The adapters that a server answers with, by name."""

    adapters: AdapterSet
    served: Mapping[str, ServedAdapter]
    backbone: str

    def of(self, name: str) -> ServedAdapter:
        """Return the adapter of a name; raise Refused where there is none."""
        if name not in self.served:
            raise Refused(404, f"no adapter {one_line(name)!r}; there are {', '.join(map(one_line, self.served))}")
        return self.served[name]

    def predictions(self, images: Tensor, names: list[str]) -> list[Tensor]:
        """Return the predictions of images (B, C, H, W) by the adapter named for each, in one mixed batch."""
        device = next(self.adapters.model(names[0]).parameters()).device
        return [predicted.cpu() for predicted in self.adapters(images.to(device), names)]
