"""This module defines the adapted model, from images to logits; `requires_grad` marks the parts that are tuned."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from peft_vision.backbone.border import make_room
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.frozen_weights import frozen_bytes, hold_packed, round_matrices
from peft_vision.backbone.observation import GRIDS, Kind, Observation
from peft_vision.backbone.quantized import Bits
from peft_vision.core.preprocessing import Normalize, Preprocessing
from peft_vision.core.seeding import derive
from peft_vision.head.base import Head
from peft_vision.method.base import PROBE, Method, Pace, Paces, Phase, Readout
from peft_vision.objective.base import Criterion


class Model(nn.Module):
    """A model in three stages: `encoder`, from images to what is observed of them; `readout`, to features, or to a grid
    of them for segmentation; `head`, to logits. Its `criterion` makes predictions of these, and judges them.

    What is frozen from the start can be computed once: `forward` also takes an observation or features. `frozen`: the
    kinds of observation that never change: those that the readout reads for a frozen encoder, the tokens that enter
    layer `depth` for one that is changed or drops from that layer on, None if nothing can be computed once.
    `observed_type`, `grid_type`: the floating types that these observations are rounded to, stored or not: grids to
    `grid_type`. `segments`: whether the head gives logits at each pixel. `phases`: the trainings in
    their order, of which the first `begun` have begun. `recipe`: the record of how the model was assembled, if any.
    """

    def __init__(
        self,
        encoder: Encoder,
        readout: Readout,
        new_head: Callable[[int], nn.Module],
        phases: tuple[Phase, ...],
        preprocessing: Preprocessing,
        criterion: Criterion,
        recipe: Any = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.preprocessing = preprocessing
        self.normalize = Normalize(preprocessing)
        self.encoder = encoder
        self.readout = readout
        self.head = new_head(readout.width)
        self.criterion = criterion
        self.observed_type = self.grid_type = torch.float32
        self.segments = readout.reads <= GRIDS
        self.phases = phases
        self.begun = 0
        self._paces: dict[str, Pace] = {}
        self._pace_of_head = Pace()
        self._new_head = new_head
        self.depth = encoder.untouched
        self._constant = encoder.is_bare and not encoder.trains
        body = {"encoder": encoder, "readout": readout}
        parameters = {
            f"{stage}.{name}": parameter
            for stage, module in body.items()
            for name, parameter in module.named_parameters()
        }
        backbone = set(encoder.backbone_parameters)
        self._tuned_body = {name for name, parameter in parameters.items() if parameter.requires_grad}
        self._saved_body = self._tuned_body | {
            name for name, parameter in parameters.items() if parameter not in backbone
        }

    def forward(self, seen: Tensor | Observation) -> Tensor:
        """Return the predictions of the criterion, logits where there are classes, for images (B, C, H, W), uint8 or
        normalised floats, for an observation of them, or for features (B, W): (B, num_classes), or
        (B, num_classes, H, W) if the model segments."""
        if isinstance(seen, Tensor) and seen.ndim == 2:
            return self.logits(seen)
        size = tuple(seen.shape[2:]) if isinstance(seen, Tensor) else None
        return self.logits(self.features(seen), size)

    def logits(self, features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the predictions (B, num_classes) for features (B, W), in fp32 even under autocast: several rounded
        logits may be the largest, and their order would then decide which class is predicted. For a grid of features
        (B, W, h, w), return those at each pixel of images of this height and width, by default of the model's own:
        bilinearly resized logits of the head, which itself computes the last of them in fp32."""
        device = features.device.type
        if self.segments:
            return self.criterion(self._at_pixels(self.head(features).float(), size or self.preprocessing.sides))
        if not torch.is_autocast_enabled(device):
            return self.criterion(self.head(features))
        with torch.autocast(device, enabled=False):
            return self.criterion(self.head(features.float()))

    def _at_pixels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize logits (B, C, h, w) to the pixels of images of `size`, (B, C, H, W). Where a method surrounds images
        with a border, the grid shows that too: its pixels are cut off, however patches lie on it."""
        edge = 0 if self.encoder.border is None else self.encoder.border.thickness
        height, width = size
        whole = (height + 2 * edge, width + 2 * edge)
        if tuple(logits.shape[2:]) != whole:
            logits = functional.interpolate(logits, size=whole, mode="bilinear", align_corners=False)
        return logits[:, :, edge : edge + height, edge : edge + width]

    def features(self, seen: Tensor | Observation) -> Tensor:
        """Return the features (B, W) that the head reads, or the grid (B, W, h, w), computed from images or from an
        observation of them."""
        seen = seen if isinstance(seen, Observation) else self.observe(seen)
        if seen.tokens is not None:
            seen = self.encoder.resume(
                seen.tokens, self.readout.reads, depth=self.depth, contexts_of=self.readout.contexts_of
            )
        return self.readout(seen)

    def observe(self, images: Tensor, kinds: Set[Kind] | None = None) -> Observation:
        """Observe images (B, C, H, W): the given `kinds`, else those that never change, else what the readout reads."""
        kinds = kinds or self.frozen or self.readout.reads
        seen = self.encoder.observe(
            self.normalize(images), kinds, depth=self.depth, contexts_of=self.readout.contexts_of
        )
        return seen if self.frozen is None else seen.rounded(self.observed_type, grid=self.grid_type)

    def round_observations_to(self, dtype: torch.dtype, *, grid: torch.dtype | None = None) -> None:
        """Round what is observed of a frozen encoder to a floating type, whether it is stored or not; grids to the type
        `grid` where one is given."""
        self.observed_type, self.grid_type = dtype, grid or dtype

    def type_of(self, kind: Kind) -> torch.dtype:
        """Return the floating type that observations of a kind are rounded to."""
        return self.grid_type if kind in GRIDS else self.observed_type

    def observed_shapes(self) -> dict[Kind, tuple[int, ...]]:
        """Return the shape of each kind of observation that `observe` can make of one image."""
        return self.encoder.observed_shapes(depth=self.depth, contexts_of=self.readout.contexts_of)

    def train_at(self, paces: Paces) -> None:
        """Let parameters train at these paces."""
        self._pace_of_head = paces.head
        named = self.encoder.named_parameters(prefix="encoder")
        self._paces = {name: paces.encoder[parameter] for name, parameter in named if parameter in paces.encoder}
        self._paces |= {name: paces.readout for name, _ in self.readout.named_parameters(prefix="readout")}

    def pace(self, name: str) -> Pace:
        """Return the pace at which the parameter of this name trains."""
        if name.startswith("head."):
            return self._pace_of_head
        return self._paces[name] if name in self._paces else Pace()

    @property
    def phase(self) -> Phase:
        """Return the phase that began last."""
        return self.phases[self.begun - 1]

    def begin_next_phase(self, *, seed: int) -> None:
        """Begin the next phase: set what trains in it, and make the head it begins with, drawn from `seed`."""
        self.begun += 1
        for name, parameter in self.named_parameters():
            if name in self._tuned_body:
                parameter.requires_grad_(not self.phase.probe)
        if self.phase.head is not None:
            device = next(self.head.parameters()).device
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "head", self.begun))
                self.head = self.phase.head(self.head, self._new_head).to(device)
        self.train(self.training)  # what is in evaluation mode depends on the phase

    @property
    def dropping(self) -> list[str]:
        """Return the options that make the backbone drop in the present phase: none in a phase that trains the head
        alone, whose features are the same in every step."""
        return [] if self._head_alone or self.encoder.evaluates else self.encoder.asked_to_drop

    @property
    def frozen(self) -> frozenset[Kind] | None:
        """Return the kinds of observation that never change in the present phase, or None if there are none."""
        before_all = self.begun <= 1 and self.phases[0].probe and self.encoder.is_bare
        if before_all or (self._constant and not self.dropping):
            return self.readout.reads
        whole = self.depth > 0 and self.depth <= self.readout.first_layer
        return frozenset({"tokens"}) if whole else None

    @property
    def _head_alone(self) -> bool:
        """True if only the head trains in the present phase."""
        return self.phase.probe or not self._tuned_body

    def train(self, mode: bool = True) -> "Model":
        """Set training mode. Modules that do not train stay in evaluation mode, except for the backbone's dropping
        modules while anything besides the head trains, and for a readout that the phase keeps live."""
        super().train(mode)
        if self._head_alone:
            self.encoder.eval()
        trains = any(parameter.requires_grad for parameter in self.readout.parameters())
        if not trains and not self.phase.live_readout:
            self.readout.eval()
        return self

    def tuned_state(self) -> dict[str, Tensor]:
        """Return what an adapter file holds: the parameters that train in any phase, those that the method and the head
        added and that never train, such as random projections, and the buffers that training changes."""
        state = {
            name: parameter
            for name, parameter in self.named_parameters()
            if name in self._saved_body or name.startswith("head.")
        }
        kept = self.state_dict()
        held = set(self.encoder.held())
        for prefix, module in self.named_modules():
            if module in held:
                continue
            for name, _ in module.named_buffers(prefix=prefix, recurse=False):
                if name in kept:  # a non-persistent buffer is derived, not state
                    state[name] = kept[name]
        return {name: tensor.detach() for name, tensor in state.items()}

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train in any phase."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name in self._tuned_body or (name.startswith("head.") and parameter.requires_grad)
        }

    def parameter_counts(self) -> "ParameterCounts":
        """Count the parameters that train in any phase, of the method and of the head, and the frozen rest."""
        sizes = {name: parameter.numel() for name, parameter in self.named_parameters()}
        method = sum(size for name, size in sizes.items() if name in self._tuned_body)
        head = _count(p for p in self.head.parameters() if p.requires_grad)
        packed = 0 if (held := frozen_bytes(self.encoder)) is None else held.numbers
        return ParameterCounts(method=method, head=head, frozen=sum(sizes.values()) + packed - method - head)


@dataclass(frozen=True)
class ParameterCounts:
    """The numbers of parameters. `method`: trained in the encoder or the readout; `head`: trained in the head;
    `frozen`: the rest."""

    method: int
    head: int
    frozen: int


@dataclass(frozen=True)
class Parts:
    """The parts of a model besides its backbone. `frozen_bits`: of the frozen matrices in the blocks, None for what
    they are."""

    method: Method
    head: Head
    criterion: Criterion
    preprocessing: Preprocessing
    frozen_bits: Bits | None = None


def assemble(vit: nn.Module, parts: Parts, *, seed: int, recipe: Any = None) -> Model:
    """Freeze `vit`, attach the method and a new head, and return the model that `vit` is now part of. The new
    parameters depend on `seed` only. Raise ConfigError where the backbone's family does not give what the method or the
    head needs, where the method does not give what the head reads, and where it trains what is to be held in few
    bits."""
    method, head, criterion = parts.method, parts.head, parts.criterion
    if thickness := method.border():
        make_room(vit, thickness)
    vit.requires_grad_(False)
    encoder = Encoder(vit, parts.preprocessing)
    encoder.require(method.needs())
    if head.reads != "features":
        encoder.show_grid()
        encoder.require({head.reads}, group="head")
    packed = {} if parts.frozen_bits is None else round_matrices(encoder, parts.frozen_bits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        paces = method.attach_paced(encoder)
        encoder.freeze_pooling()
        hold_packed(encoder, packed)
        pooled = head.reads == "features"
        readout = method.readout(encoder) if pooled else method.grid_readout(encoder, head.reads)
        new_head = partial(head.build, num_classes=criterion.num_outputs)
        phases = method.phases(encoder)
        phases = (PROBE, *phases) if method.probe_first else phases
        model = Model(encoder, readout, new_head, phases, parts.preprocessing, criterion, recipe)
    model.train_at(paces)
    model.begin_next_phase(seed=seed)
    return model


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)
