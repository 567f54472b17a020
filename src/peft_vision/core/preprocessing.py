"""This module describes the images that a backbone's weights expect: the backbone states them, and the data follow."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, WrapValidator
from torch import Tensor, nn

from peft_vision.core.records import Record, first_fault

_Mean = Annotated[float, Field(ge=-1000, le=1000)]
_Std = Annotated[float, Field(ge=1e-6, le=1000)]


Size = int | tuple[int, int]
"""The size of an image in pixels: the side of a square, or height and width that differ."""

MOST_CHANNELS = 512
"""The largest number of channels of an image; hyperspectral cameras have some hundreds."""


def one_size(height: int, width: int) -> Size:
    """Return the size of images of this height and width; equal sizes are written alike."""
    return height if height == width else (height, width)


def sides_of(size: Size) -> tuple[int, int]:
    """Return height and width of images of this size."""
    return (size, size) if isinstance(size, int) else size


def size_in_words(size: Size | Sequence[int]) -> str:
    """Return a size as messages name it: 224 px for a square, and 224 x 160 px for height and width."""
    return f"{size} px" if isinstance(size, int) else f"{' x '.join(map(str, size))} px"


def each_side(value: Any, check: Callable[[Any], int]) -> Size:
    """Validate a size for pydantic: the side of a square, or height and width in a list; `check` validates one side."""
    if not isinstance(value, list | tuple):
        return check(value)
    if len(value) != 2 or None in value:
        raise ValueError("should be the side of a square in pixels, or [height, width]")
    return one_size(*map(check, value))


class _Recorded(Record, extra="forbid"):
    size: Annotated[int, Field(gt=0, le=8192), WrapValidator(each_side)]
    mean: Annotated[list[_Mean], Field(min_length=1, max_length=MOST_CHANNELS)]
    std: Annotated[list[_Std], Field(min_length=1, max_length=MOST_CHANNELS)]
    interpolation: Literal["nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"]
    crop: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Preprocessing:
    """The images that a backbone expects: their `size` in pixels; `mean` and `std` of each channel in [0, 1];
    `interpolation`, a torchvision InterpolationMode value; `crop`, the share of the resized short side to keep, or of
    both sides where height and width differ."""

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop: float

    @property
    def channels(self) -> int:
        """Return C, the number of channels."""
        return len(self.mean)

    @property
    def sides(self) -> tuple[int, int]:
        """Return height and width of an image."""
        return sides_of(self.size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image, (C, H, W)."""
        return (self.channels, *self.sides)

    def with_channels(self, count: int) -> "Preprocessing":
        """Return the same for images of `count` channels. Where `mean` or `std` has another number of values, every
        channel gets their mean, as in timm (timm.data.resolve_input_data_config)."""
        return replace(self, mean=_for_each(self.mean, count), std=_for_each(self.std, count))

    def record(self) -> dict[str, Any]:
        """Return the fields as plain values, for result.json and adapter metadata."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def restore(cls, record: Any) -> "Preprocessing":
        """Return the preprocessing of a `record`; raise ValueError if it is not a valid one."""
        try:
            read = _Recorded.model_validate(record)
        except ValidationError as error:
            raise ValueError(f"preprocessing: {first_fault(error)}") from error
        if len(read.mean) != len(read.std):
            raise ValueError(f"preprocessing: {len(read.mean)} values in mean and {len(read.std)} in std")
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in dict(read).items()})

    def __str__(self) -> str:
        return (
            f"{size_in_words(self.size)}, {self.interpolation}, crop {self.crop:g}, "
            f"mean {'/'.join(f'{m:g}' for m in self.mean)}, std {'/'.join(f'{s:g}' for s in self.std)}"
        )


def _for_each(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values if len(values) == count else (sum(values) / len(values),) * count


class Normalize(nn.Module):
    """A module that turns uint8 images (B, C, H, W) into normalised floats, on the device the images are on."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images; floats are returned as they are, as normalised by the caller."""
        if images.is_floating_point():
            return images
        return (images.float() / 255 - self.mean) / self.std
