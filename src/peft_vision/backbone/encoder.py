"""This module maps images to features by a timm model whose blocks have places for a method's modules."""

import math
from collections.abc import Collection, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

import torch
from timm.models import checkpoint
from torch import Tensor, nn

from peft_vision.backbone.drops import dropping_options, drops, noise_of_positions
from peft_vision.backbone.families.match import architecture, refuse_size, trunk_of
from peft_vision.backbone.intermediates import gathered, group_widths
from peft_vision.backbone.observation import GRIDS, Kind, Observation
from peft_vision.backbone.quantized import QuantizedLinear
from peft_vision.backbone.stage import NEEDS, Need, Stage
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Preprocessing


class Encoder(nn.Module):
    """A module that owns `vit`, a timm model of any family, and replaces its blocks by layers with ports; the forward
    and all parameter names stay timm's.

    `trunk`: the model by what methods need of it, which its family decides (see `families/`). `preprocessing`: that of
    the images, where it is known. `border`: a method's module that maps images to larger ones before anything else, or
    None. `evaluates`: whether the backbone drops nothing in training, and stays in evaluation mode even when all of it
    trains. `places`: the backbone's own modules by their paths, whatever stands around them now.
    """

    def __init__(self, vit: nn.Module, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.vit = vit
        self.trunk = trunk_of(vit)
        self.trunk.adopt()
        self.preprocessing = preprocessing
        if preprocessing is not None and self.trunk.image_size is None:
            refuse_size(self.trunk, preprocessing.sides)
        self.border: nn.Module | None = None
        self.evaluates = False
        self.set_checkpointing(bool(getattr(vit, "grad_checkpointing", False)))
        self._backbone = list(vit.modules())  # plain lists, so that modules a method adds later are not in them
        self.backbone_parameters = list(vit.parameters())
        self.places = dict(vit.named_modules())
        fixed = noise_of_positions(vit)
        self._drops = [module for module in self._backbone if drops(module) and module not in fixed]
        self._pooling: set[nn.Parameter] = set()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Return the layers, first to last."""
        return self.trunk.layers

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the description of each layer, first to last."""
        return self.trunk.stages

    @property
    def num_tokens(self) -> int:
        """Return N, the number of class, register and patch tokens that the backbone itself makes."""
        return self.trunk.num_tokens

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Return height and width of the images that the model takes, without a border; None where it takes any."""
        size, edge = self.trunk.image_size, 0 if self.border is None else 2 * self.border.thickness
        return None if size is None else tuple(side - edge for side in size)

    @property
    def width(self) -> int:
        """Return D, the width of a feature."""
        return self.trunk.width

    @property
    def name(self) -> str:
        """Return timm's name of the architecture."""
        return architecture(self.vit)

    def require(self, needs: Set[Need], *, group: str = "method") -> None:
        """Raise ConfigError with the family's reason where it does not give what the component of a config group
        needs."""
        for need in sorted(needs & self.trunk.lacks.keys()):
            raise ConfigError(f"{group}: it needs {NEEDS[need]}; {self.name} {self.trunk.lacks[need]}")

    def show_grid(self) -> None:
        """Let `observe` show a grid, or several; called at most once, before a method is attached."""
        self.trunk.show_grid(self._shown_size())
        self._pooling = set(self.trunk.pooling())

    def freeze_pooling(self) -> None:
        """Freeze what no grid is computed with, where one is shown, and what a method has unfrozen of it."""
        for parameter in self._pooling:
            parameter.requires_grad_(False)

    @property
    def end_operations(self) -> tuple[str, ...]:
        """Return the paths of the norms after the last layer that have parameters, and that what is shown passes."""
        return tuple(
            path
            for path in self.trunk.end_operations
            if not self._pooling.intersection(self.vit.get_submodule(path).parameters())
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to features (B, D): the final norm's output, pooled as the backbone
        does."""
        return self.trunk.pool(self._through(self.stem(images), first=0))

    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W), of the size that the model takes, to what enters the first layer."""
        self.trunk.check_size(tuple(images.shape[-2:]), self.image_size)
        return self.trunk.stem(images if self.border is None else self.border(images))

    def observe(
        self, images: Tensor, kinds: Set[Kind], *, depth: int = 0, contexts_of: Sequence[int] | None = None
    ) -> Observation:
        """Return the requested kinds of observation of normalised images (B, C, H, W), without a gradient where no part
        of the encoder trains. An encoder that does not train keeps no activations: each layer's are freed once the next
        one has run. `tokens` are those that enter layer `depth`; the layers before it must not train. `contexts_of`:
        the layers whose contexts are kept, in ascending order (None: all)."""
        if "tokens" in kinds:
            with torch.no_grad():
                return Observation(tokens=self._through(self.stem(images), first=0, last=depth))
        with ExitStack() as held:
            if not self.trains:
                held.enter_context(torch.no_grad())
            groups = held.enter_context(self._noted_intermediates()) if "intermediates" in kinds else None
            seen = self._seen(self.stem(images), kinds, first=0, contexts_of=contexts_of)
        return seen if groups is None else replace(seen, intermediates=torch.cat([*groups, seen.features], dim=1))

    def resume(
        self, tokens: Tensor, kinds: Set[Kind], *, depth: int, contexts_of: Sequence[int] | None = None
    ) -> Observation:
        """Return the features and, if requested, the contexts and grids, computed from the tokens that enter layer
        `depth`; contexts of the layers before it, none of which is in `contexts_of`, are None. Without the features
        where only grids are requested."""
        return self._seen(tokens.float(), kinds, first=depth, contexts_of=contexts_of)

    def observed_shapes(
        self, *, depth: int = 0, contexts_of: Sequence[int] | None = None
    ) -> dict[Kind, tuple[int, ...]]:
        """Return the shape of each kind of observation that the backbone can make of one image, packed into one
        tensor."""
        size = self._shown_size()
        shapes: dict[Kind, tuple[int, ...]] = {
            "features": (self.width,),
            "tokens": self.trunk.token_shape(depth, size),
        }
        if "taps" not in self.trunk.lacks:
            shapes["intermediates"] = (sum(group_widths(self.trunk)),)
        if "contexts" not in self.trunk.lacks:
            count = len(self.layers if contexts_of is None else contexts_of)
            shapes["contexts"] = (count, *self.trunk.token_shape(0, size))
        if self.trunk.shows_grid and "grid" not in self.trunk.lacks:
            shapes["grid"] = self.trunk.grid_shape(len(self.layers) - 1, size)
        if self.trunk.shows_grid and "grids" not in self.trunk.lacks:
            shapes["grids"] = (sum(map(math.prod, self.grid_shapes())),)
        return shapes

    def grid_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Return (D, h, w) of each of the several grids, those of earlier layers first."""
        size = self._shown_size()
        return tuple(self.trunk.grid_shape(layer, size) for layer in self.trunk.grid_layers)

    def _shown_size(self) -> tuple[int, int]:
        """Return height and width of the images that the backbone sees, with a border where there is one."""
        edge = 0 if self.border is None else 2 * self.border.thickness
        return self.trunk.image_size or tuple(side + edge for side in self.preprocessing.sides)

    @property
    def trains(self) -> bool:
        """True if any parameter of the encoder trains, so that its features of an image change during training."""
        return _trains(self)

    @property
    def is_bare(self) -> bool:
        """True if a method has added no module to the backbone, so that equal weights give equal observations."""
        return self.border is None and not self.added()

    @property
    def untouched(self) -> int:
        """Return how many layers, from the first, are the backbone's own, do not train and drop nothing; 0 where this
        does not hold for the modules before the first layer, and where the forward pass cannot go on from a layer."""
        before = self._before()
        modules = [part for part in before if isinstance(part, nn.Module)]
        if not self.trunk.divides or self.border is not None:
            return 0
        if any(map(_trains, before)) or any(map(self._changes, modules)):
            return 0
        for index in range(len(self.layers)):
            if any(self._changes(module) or _trains(module) for module in self._way(index)):
                return index
        return len(self.layers)

    @property
    def asked_to_drop(self) -> list[str]:
        """Return the names of the options that make the backbone drop in training."""
        return dropping_options(self.vit, self._drops)

    def parts(self, indices: Collection[int]) -> list[nn.Module | nn.Parameter]:
        """Return the backbone's own modules and single parameters of the layers at `indices`: the modules before the
        layers belong to the first, those after the layers to the last."""
        before = self._before() if 0 in indices else []
        behind = self.trunk.behind() if len(self.layers) - 1 in indices else []
        return [*before, *(module for index in indices for module in self._way(index)), *behind]

    def own_modules(self, indices: Collection[int]) -> list[nn.Module]:
        """Return the backbone's own modules in `parts(indices)`, at every depth."""
        backbone_modules = set(self._backbone)
        found = [module for part in self.parts(indices) if isinstance(part, nn.Module) for module in part.modules()]
        return [module for module in found if module in backbone_modules]

    def part(self, name: str) -> nn.Module:
        """Return the module at `name` in `vit`, such as blocks.0.mlp.fc1: the backbone's own, or a wrapper that a
        method put around it. Names stay the same where a module that contains them was wrapped. Raise ConfigError where
        this backbone has no such module."""
        holder, last = self._holder(name)
        try:
            return holder.get_submodule(last)
        except AttributeError as error:
            found = holder
            has = ", ".join(
                known for known, module in found.named_children() if next(module.parameters(), None) is not None
            )
            raise ConfigError(
                f"method: it changes {name}, and this backbone has none; its {type(found).__name__} has {has}"
            ) from error

    def replace(self, name: str, module: nn.Module) -> None:
        """Put `module` in the place of `part(name)`; it should contain, or compute with, what `part(name)` returned."""
        holder, last = self._holder(name)
        setattr(holder, last, module)

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        """Return the backbone's own module that has `name` as its child, and the child's name in it."""
        parent, _, last = name.rpartition(".")
        return self.places[parent], last

    def added(self) -> dict[str, nn.Module]:
        """Return the modules that a method put into `vit`, by name."""
        backbone_modules = set(self._backbone)
        return {name: module for name, module in self.vit.named_modules() if module not in backbone_modules}

    def _before(self) -> list[nn.Module | nn.Parameter]:
        """Return the modules and parameters before the layers: patches and positions."""
        if (known := self.trunk.before()) is not None:
            return known
        others = {*self.trunk.behind(), *(module for index in range(len(self.layers)) for module in self._way(index))}
        return [*self.vit.parameters(recurse=False), *_outside(self.vit, others)]

    def _way(self, index: int) -> list[nn.Module]:
        """Return layer `index` behind the modules that are before it alone."""
        return [*self.stages[index].before, self.layers[index]]

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode of the modules that a method added. The backbone stays in evaluation mode, except the modules
        that drop, unless all of it trains."""
        super().train(mode)
        for module in self.held():
            module.training = False
        return self

    def held(self) -> list[nn.Module]:
        """Return the backbone's own modules that stay in evaluation mode: none if all parameters of the backbone train,
        otherwise all except those that drop; all of them with `evaluates`."""
        if self.evaluates:
            return self._backbone
        parameters = {parameter for module in self._backbone for parameter in module.parameters(recurse=False)}
        quantized = any(isinstance(module, QuantizedLinear) for module in self._backbone)
        if not quantized and all(parameter.requires_grad for parameter in parameters - self._pooling):
            return []
        return [module for module in self._backbone if module not in self._drops]

    def set_checkpointing(self, enable: bool) -> None:
        """Set whether a second forward pass replaces the stored activations of all layers but one."""
        by_itself = self.trunk.checkpoint(enable)
        self._checkpointing = enable and not by_itself

    def _through(
        self, tokens: Tensor, *, first: int, last: int | None = None, left: dict[int, Tensor] | None = None
    ) -> Tensor:
        """Return the tokens after layers `first` to `last` (exclusive), and note in `left` what leaves each of them."""
        steps = list(enumerate(zip(self.trunk.steps, self.trunk.positions(), strict=True)))
        for index, (layer, positions) in steps[first:last]:
            tokens = checkpoint(layer, tokens, positions) if self._checkpointing else layer(tokens, positions)
            if left is not None:
                left[index] = tokens
        return tokens

    def _seen(self, tokens: Tensor, kinds: Set[Kind], *, first: int, contexts_of: Sequence[int] | None) -> Observation:
        """Return the features, unless only grids are requested, and the contexts and grids if requested, of tokens that
        enter layer `first`."""
        left: dict[int, Tensor] | None = {} if "grids" in kinds else None
        observed = self.layers if contexts_of is None else [self.layers[index] for index in contexts_of]
        with self._noted_contexts(observed) if "contexts" in kinds else nullcontext() as contexts:
            tokens = self._through(tokens, first=first, left=left)
        missing = [None] * first if contexts_of is None else []
        noted = None if contexts is None else (*missing, *contexts)
        grids = [self.trunk.grid(left[layer], layer).flatten(1) for layer in self.trunk.grid_layers if left is not None]
        return Observation(
            features=None if kinds <= GRIDS else self.trunk.pool(tokens),
            contexts=noted,
            grid=self.trunk.grid(tokens, len(self.layers) - 1) if "grid" in kinds else None,
            grids=torch.cat(grids, dim=1) if grids else None,
        )

    def _changes(self, module: nn.Module) -> bool:
        """Return whether `module` contains anything that was added to the backbone, or that drops in training."""
        unchanging = set(self._backbone) - (set() if self.evaluates else set(self._drops))
        return not all(part in unchanging for part in module.modules())

    @contextmanager
    def _noted_contexts(self, layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
        """Yield a list that a forward pass within the block fills with the context of each of the `layers`."""
        contexts: list[Tensor] = []
        try:
            for layer in layers:
                layer.observer = contexts.append
            yield contexts
        finally:
            for layer in layers:
                layer.observer = None

    @contextmanager
    def _noted_intermediates(self) -> Iterator[list[Tensor]]:
        """Yield a list that a forward pass within the block fills; meanwhile the last layer computes every row."""
        last = self.layers[-1]
        rows, last.rows = last.rows, None
        try:
            with gathered(self.trunk, self.part) as groups:
                yield groups
        finally:
            last.rows = rows


def _outside(module: nn.Module, others: Set[nn.Module]) -> list[nn.Module]:
    """Return the outermost modules within `module` that are none of `others` and contain none."""
    found: list[nn.Module] = []
    for child in module.children():
        if child not in others:
            found += [child] if others.isdisjoint(child.modules()) else _outside(child, others)
    return found


def _trains(part: nn.Module | nn.Parameter) -> bool:
    parameters = part.parameters() if isinstance(part, nn.Module) else [part]
    return any(parameter.requires_grad for parameter in parameters)
