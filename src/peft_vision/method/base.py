"""This module defines a method, which adds or unfreezes the parameters that train, in one phase or in several."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.observation import Kind, Observation
from peft_vision.backbone.stage import Need
from peft_vision.core.config import NOT_HASHED, ConfigError, component
from peft_vision.head.base import Reads

_FEW = re.compile(r"(first|last)-([1-9]\d*)")


def _readable(layers: Any) -> str | tuple[int, ...]:
    if isinstance(layers, str) and (layers == "all" or _FEW.fullmatch(layers)):
        return layers
    if isinstance(layers, list | tuple) and all(type(index) is int and index >= 0 for index in layers):
        if len(set(layers)) < max(1, len(layers)):
            raise ValueError("should name each layer once, and at least one")
        return tuple(sorted(layers))
    raise ValueError("should be all, first-N, last-N, or a list such as [0,11], where 0 is the first layer")


Layers = Annotated[str | tuple[int, ...], BeforeValidator(_readable)]


def chosen(layers: Layers, encoder: Encoder) -> tuple[int, ...]:
    """Return the indices of the chosen layers in ascending order. Raise ConfigError where the encoder has no such
    layer."""
    depth = len(encoder.layers)
    if layers == "all":
        return tuple(range(depth))
    if isinstance(layers, str):
        end, count = _FEW.fullmatch(layers).groups()
        indices = range(int(count)) if end == "first" else range(depth - int(count), depth)
    else:
        indices = sorted(layers)
    if indices[0] < 0 or indices[-1] >= depth:
        raise ConfigError(f"method.layers: got {layers!r}, but this backbone has {depth} layers, 0 to {depth - 1}")
    return tuple(indices)


class Readout(nn.Module, ABC):
    """A module that computes from observations what the head reads: features, or a grid of them. `reads`: the kinds of
    observation that `forward` needs; `contexts_of`: the layers whose contexts it is given, in ascending order (None:
    all); `first_layer`: the first layer whose inner values these show (infinite: none); `width`: width of the
    features."""

    reads: ClassVar[frozenset[Kind]]
    contexts_of: tuple[int, ...] | None = None
    first_layer: float
    width: int

    @abstractmethod
    def forward(self, seen: Observation) -> Tensor:
        """Return features (B, width) for the head, or a grid (B, width, h, w)."""


class Pooled(Readout):
    """A readout that returns the backbone's own pooled features."""

    reads = frozenset({"features"})
    first_layer = math.inf

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, seen: Observation) -> Tensor:
        """Return the features (B, D) as the backbone pools them."""
        return seen.features


class LastGrid(Readout):
    """A readout that returns the grid that leaves the last layer."""

    reads = frozenset({"grid"})

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.first_layer = len(encoder.layers) - 1
        self.width = encoder.observed_shapes()["grid"][0]

    def forward(self, seen: Observation) -> Tensor:
        """Return the grid (B, D, h, w) in fp32."""
        return seen.grid.float()


class SeveralGrids(Readout):
    """A readout that returns the grids of several layers side by side as channels, each resized to the largest of them,
    bilinearly, as in DINOv2's and DINOv3's released heads."""

    reads = frozenset({"grids"})

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.first_layer = encoder.trunk.grid_layers[0]
        self.shapes = encoder.grid_shapes()
        self.width = sum(width for width, _, _ in self.shapes)

    def forward(self, seen: Observation) -> Tensor:
        """Return the grids (B, width, h, w) in fp32. Raise ValueError for images of another size than the model's."""
        sizes = list(map(math.prod, self.shapes))
        if seen.grids.shape[1] != sum(sizes):
            raise ValueError("the head reads several grids, whose sizes are known for images of the model's own size")
        parts = seen.grids.float().split(sizes, dim=1)
        grids = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        largest = max((grid.shape[2:] for grid in grids), key=math.prod)
        return torch.cat([_resized(grid, largest) for grid in grids], dim=1)


def _resized(grid: Tensor, size: torch.Size) -> Tensor:
    if grid.shape[2:] == size:
        return grid
    return functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)


class Intermediates(Readout):
    """A readout that returns columns of the backbone's intermediate values, see `backbone/intermediates.py`."""

    reads = frozenset({"intermediates"})
    first_layer = 0

    def __init__(self, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns, persistent=False)
        self.width = len(columns)

    def forward(self, seen: Observation) -> Tensor:
        """Return the chosen columns (B, W), group after group."""
        whole = len(self.columns) == seen.intermediates.shape[1]
        return seen.intermediates if whole else seen.intermediates[:, self.columns]


@dataclass(frozen=True)
class Phase:
    """A training phase of `trainer.epochs` epochs.

    `probe`: only the head trains; everything else stays as the earlier phases left it. `head`: makes the phase's
    initial head from the old head and a function that builds a fresh head for a feature width (None: the old head goes
    on training). `lr_factor`: multiplies the optimizer's learning rate. `lasso`: weight in the loss of the sum of the
    L2 norms of the head's input columns. `live_readout`: the readout stays in training mode although none of its
    parameters trains, so that its dropout is active. `group`: the config group of the optimizer that this phase uses.
    """

    name: str
    probe: bool = False
    head: Callable[[nn.Module, Callable[[int], nn.Module]], nn.Module] | None = None
    lr_factor: float = 1.0
    lasso: float = 0.0
    live_readout: bool = False
    group: Literal["optimizer", "probe"] = "optimizer"


PROBE = Phase("probe", probe=True, group="probe")


@dataclass(frozen=True)
class Pace:
    """How fast parameters train beside all others. `lr_factor` multiplies the optimizer's learning rate; `weight_decay`
    is in the place of the optimizer's own, None leaves that. Biases and others that have no decay never get any."""

    lr_factor: float = 1.0
    weight_decay: float | None = None

    def within(self, outer: "Pace") -> "Pace":
        """Return the pace of a part of a part."""
        decay = outer.weight_decay if self.weight_decay is None else self.weight_decay
        return Pace(self.lr_factor * outer.lr_factor, decay)


@dataclass(frozen=True)
class Paces:
    """The paces that a method asks for: of single parameters of the encoder, of the readout's, and of the head's."""

    encoder: Mapping[nn.Parameter, Pace] = field(default_factory=dict)
    readout: Pace = Pace()
    head: Pace = Pace()


@component
class Method(ABC):
    """A method that selects or adds the parameters that train.

    `layers`: the layers that the method works in: all, first-N, last-N, or a list of indices. `probe_first`: whether
    the head is fitted before anything else trains, by the optimizer `probe`. `lr`: the learning rates that suit this
    method, keyed by optimizer; `optimizer.lr` takes its default from them, under the name that the optimizer's YAML
    refers to.
    """

    layers: Layers
    probe_first: bool
    lr: Annotated[dict[str, PositiveFloat], NOT_HASHED]

    def check(self, where: str = "method") -> None:
        """Raise ConfigError for values that cannot work; called before a training, not when a finished run is read."""
        return None

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Return whether version 0.1.0 trained differently with the same values, so that its runs do not count as runs
        of this method. `drops`: whether the backbone is configured with dropout or stochastic depth, which 0.1.0
        applied only where the whole backbone trained."""
        return drops

    def chosen(self, encoder: Encoder) -> tuple[int, ...]:
        """Return the indices of `layers` in this encoder. Raise ConfigError where it has no such layer."""
        return chosen(self.layers, encoder)

    def needs(self) -> frozenset[Need]:
        """Return what of a backbone the method works with. Where the backbone's family does not give it, the family's
        reason is the error; without it the method works on every family."""
        return frozenset()

    def border(self) -> int:
        """Return how many pixels the method adds to each side of the images before the backbone sees them."""
        return 0

    @abstractmethod
    def attach(self, encoder: Encoder) -> None:
        """Add parameters to `encoder`, or set `requires_grad` on its own; all of them are frozen on entry. Exactly the
        parameters that require a gradient afterwards are trained and saved."""

    def attach_paced(self, encoder: Encoder) -> Paces:
        """Attach the method, and return the paces at which its parameters train, by default all at the optimizer's."""
        self.attach(encoder)
        return Paces()

    def reads(self) -> frozenset[Kind]:
        """Return the kinds of observation that the readout will need from the encoder."""
        return Pooled.reads

    def readout(self, encoder: Encoder) -> Readout:
        """Return the readout that computes the head's input; its trainable parameters are tuned as well."""
        return Pooled(encoder.width)

    def grid_readout(self, encoder: Encoder, reads: Reads) -> Readout:
        """Return the readout for a head that reads one grid or several. Raise ConfigError where the method has a
        readout of its own, which makes one vector of an image."""
        if type(self).readout is not Method.readout:
            raise ConfigError(
                f"head: it reads features at each place of the image, and {type(self).__name__} makes one vector of "
                "it, so it cannot segment; use linear, full, lora, vpt_deep or another method that has no readout"
            )
        return LastGrid(encoder) if reads == "grid" else SeveralGrids(encoder)

    def phases(self, encoder: Encoder) -> tuple[Phase, ...]:
        """Return the training phases in order."""
        return (Phase("train"),)
