"""This module answers a batch whose images belong to different adapters in one pass of their common backbone.

A pass holds the adapters whose images have the same tokens: those without prompts that travel with the image, or those
whose prompts enter at the same layers and are as many. Context prompts (VPT-deep) may differ in number. Queries (VQT),
chosen intermediate values (Head2Toe) and heads read what the pass has observed, each of its own images.
"""

import copy
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn

from peft_vision.backbone.attention import Layer
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.observation import Kind, Observation
from peft_vision.backbone.stage import Ports
from peft_vision.mixing.places import MixedContext, MixedPlace, MixedPort
from peft_vision.mixing.route import Route
from peft_vision.models.model import Model

_LISTS = ("beside_attention", "beside_mlp", "behind")
_PORTS = ("entrance", "context", *_LISTS)
_NAMED = 3  # tensors that a reason names


def sharing(vit: nn.Module) -> nn.Module:
    """Return a copy of `vit` whose tensors lie in the same memory."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in vit.parameters()
    }
    memo |= {id(buffer): buffer.detach() for buffer in vit.buffers()}
    return copy.deepcopy(vit, memo)


def addresses(vit: nn.Module) -> frozenset[int]:
    """Return the addresses of the tensors of `vit`."""
    return frozenset(tensor.data_ptr() for tensor in chain(vit.parameters(), vit.buffers()))


class Changes:
    """The changes of an adapter to its backbone, whose tensors lie at the addresses `shared`. `places`: the module at
    each path that computes otherwise; `ports`: the modules in each layer's ports; `reason`: why its images cannot share
    a pass with those of other adapters, or None."""

    def __init__(self, model: Model, shared: frozenset[int]) -> None:
        encoder = model.encoder
        self.ports: list[dict[str, list[nn.Module]]] = [_in_ports(layer) for layer in encoder.layers]
        added = encoder.added()
        in_ports = {
            module for ports in self.ports for held in ports.values() for one in held for module in one.modules()
        }
        names = [name for name, module in added.items() if module not in in_ports]
        outermost = [name for name in names if not name.startswith(tuple(f"{outer}." for outer in names))]
        self.places: dict[str, nn.Module] = {name: added[name] for name in outermost}
        within = tuple(f"{name}." for name in outermost)
        strange: list[str] = []
        for name, module in encoder.places.items():
            own = _own(module, shared)
            if not own or name in self.places or name.startswith(within):
                continue
            if any(True for _ in module.children()) or isinstance(module, Ports):
                strange += [f"{name}.{tensor}".lstrip(".") for tensor in own]
            else:
                self.places[name] = module
        self.reason = _reason(model, self.ports) or _strange(strange) or self._unknown(encoder)

    def _unknown(self, encoder: Encoder) -> str | None:
        """Return that a module stands where the backbone has none, and what it does is not known; None if none does."""
        found = next((name for name in self.places if name not in encoder.places), None)
        return None if found is None else f"it has a {type(self.places[found]).__name__} at {found}, a place of its own"

    def key(self, model: Model) -> Hashable:
        """Return what adapters of one pass must have in common: how many tokens enter which layers; and where averages
        over tokens are read, the context's tokens too."""
        entering = tuple(
            (index, ports["entrance"][0].num_added) for index, ports in enumerate(self.ports) if ports["entrance"]
        )
        if "intermediates" not in model.readout.reads:
            return entering, None
        return entering, tuple(len(ports["context"][0](1)[0]) if ports["context"] else 0 for ports in self.ports)


def _in_ports(layer: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the modules in each port of a layer; a port that holds one module has none or one."""
    if not isinstance(layer, Ports):
        return {name: [] for name in _PORTS}
    single = {name: [module for module in [getattr(layer, name)] if module is not None] for name in _PORTS[:2]}
    return {**single, **{name: list(getattr(layer, name)) for name in _LISTS}}


def _own(module: nn.Module, shared: frozenset[int]) -> list[str]:
    """Return the names of the tensors directly in a module that are not the backbone's."""
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [name for name, tensor in named if tensor.numel() and tensor.data_ptr() not in shared]


def _reason(model: Model, ports: Sequence[dict[str, list[nn.Module]]]) -> str | None:
    """Return why a model computes something else than features of the backbone's own tokens, or None."""
    encoder = model.encoder
    if encoder.border is not None:
        return "a border of pixels makes its images larger"
    if model.segments:
        return "its head reads a grid of features"
    if model.frozen == {"tokens"} and model.observed_type != torch.float32:
        return "the tokens that it goes on from are rounded"
    for layer, held in zip(encoder.layers, ports, strict=True):
        entering = held["entrance"]
        if (entering or held["context"]) and type(layer).forward is not Layer.forward:
            return f"its prompts enter a {type(layer).__name__}, which has one set of them for all images"
        if entering and not hasattr(entering[0], "num_added"):
            return f"how many tokens its {type(entering[0]).__name__} adds is not known"
    last = encoder.layers[-1]
    if isinstance(last, Layer) and last.rows is None and type(last).forward is Layer.forward:
        return "its pooling reads the prompts"
    return None


def _strange(names: Sequence[str]) -> str | None:
    """Return that these tensors train, which no module of their own multiplies, or None."""
    if not names:
        return None
    shown = ", ".join(names[:_NAMED]) + (", ..." if names[_NAMED:] else "")
    return f"it trains {shown}, which the backbone reads for all images at once"


class Mixture:
    """The adapters `models` on one backbone: `encoder` is its own, to which no method has added anything, and whose
    tensors are at the addresses `shared`."""

    def __init__(
        self, encoder: Encoder, models: Sequence[Model], changes: Sequence[Changes], shared: frozenset[int]
    ) -> None:
        self.models = models
        self.route = Route()
        self.encoder = encoder
        self.contexts: dict[int, MixedContext] = {}
        for path in dict.fromkeys(path for change in changes for path in change.places):
            inner = self.encoder.part(path)
            modules = [change.places.get(path, inner) for change in changes]
            self.encoder.replace(path, MixedPlace(inner, modules, self.route, shared))
        for index, layer in enumerate(self.encoder.layers):
            self._fill(index, layer, [change.ports[index] for change in changes])
        self.encoder.requires_grad_(False).eval()

    def _fill(self, index: int, layer: nn.Module, held: Sequence[dict[str, list[nn.Module]]]) -> None:
        """Fill the ports of a layer with what any adapter has in them."""
        if any(ports["entrance"] for ports in held):
            layer.entrance = MixedPort(_at(held, "entrance", 0), self.route, otherwise=lambda tokens: tokens)
        if any(ports["context"] for ports in held):
            width = self.encoder.stages[index].width
            layer.context = self.contexts[index] = MixedContext(_at(held, "context", 0), self.route, width)
            layer.padding = layer.context.padding
        for name in _LISTS:
            for number in range(max(len(ports[name]) for ports in held)):
                getattr(layer, name).append(MixedPort(_at(held, name, number), self.route, torch.zeros_like))

    def __call__(self, images: Tensor, numbers: Sequence[int]) -> list[Tensor]:
        """Return for each run of equal `numbers`, which ascend, the predictions (B_a, C_a) of that model for its images
        among `images` (B, C, H, W)."""
        parts = self._begin(numbers, images.device)
        normalised = torch.cat([model.normalize(images[rows]) for model, rows in parts])
        kinds, layers = self._read(parts)
        seen = self.encoder.observe(normalised, kinds, contexts_of=layers)
        return [model.logits(model.features(self._part(seen, model, rows, layers))) for model, rows in parts]

    def let_train(self) -> None:
        """Let the gradients of `of_all` reach the parameters that train in the models, where this sees them."""
        for module in self.encoder.modules():
            if isinstance(module, (MixedPlace, MixedPort)):
                for stack in module.stacks():
                    stack.let_train()
        for context in self.contexts.values():
            context.live = True

    def of_all(self, entering: Sequence[Tensor], *, depth: int) -> list[Tensor]:
        """Return the predictions (B, C_a) of each model, in their order, for as many normalised images (B, C, H, W) of
        its own where `depth` is 0, or else for tokens of them that enter that layer, before which no model changes
        anything; with a gradient of what trains in the models."""
        numbers = [number for number, inputs in enumerate(entering) for _ in inputs]
        parts = self._begin(numbers, entering[0].device)
        kinds, layers = self._read(parts)
        whole = torch.cat(list(entering))
        tokens = self.encoder.stem(whole) if depth == 0 else whole
        seen = self.encoder.resume(tokens, kinds, depth=depth, contexts_of=layers)
        return [model.logits(model.readout(self._own(seen, model, rows, layers))) for model, rows in parts]

    def _begin(self, numbers: Sequence[int], device: torch.device) -> list[tuple[Model, slice]]:
        """Prepare a pass of images of the models of these `numbers`, and return each model with its images."""
        self.route.begin(numbers, device)
        for index, context in self.contexts.items():
            self.encoder.layers[index].context = context if context.most else None
        parts: list[tuple[Model, slice]] = []
        for number in dict.fromkeys(numbers):
            start = numbers.index(number)
            parts.append((self.models[number], slice(start, start + numbers.count(number))))
        return parts

    def _read(self, parts: Sequence[tuple[Model, slice]]) -> tuple[frozenset[Kind], list[int]]:
        """Return the kinds of observation that any model of a pass reads, and the layers whose contexts any reads."""
        kinds = frozenset().union(*(model.readout.reads for model, _ in parts))
        return kinds, sorted({index for model, _ in parts for index in self._contexts_of(model)})

    def _contexts_of(self, model: Model) -> Sequence[int]:
        """Return the layers whose contexts a model reads."""
        if "contexts" not in model.readout.reads:
            return ()
        return range(len(self.encoder.layers)) if model.readout.contexts_of is None else model.readout.contexts_of

    def _part(self, seen: Observation, model: Model, rows: slice, layers: Sequence[int]) -> Observation:
        """Return what a model would have observed of its own images, rounded as that would be."""
        part = self._own(seen, model, rows, layers)
        return part if model.frozen is None else part.rounded(model.observed_type, grid=model.grid_type)

    def _own(self, seen: Observation, model: Model, rows: slice, layers: Sequence[int]) -> Observation:
        """Return the part of an observation that is of a model's own images."""
        contexts = None
        if "contexts" in model.readout.reads:
            contexts = tuple(
                self._own_context(seen.contexts[layers.index(index)][rows], index, rows)
                for index in self._contexts_of(model)
            )
        part = replace(seen, contexts=None).each(lambda tensor: tensor[rows])
        return replace(part, contexts=contexts)

    def _own_context(self, context: Tensor, index: int, rows: slice) -> Tensor:
        """Return the context of a layer without the tokens that fill it up."""
        if index not in self.contexts:
            return context
        mixed = self.contexts[index]
        filling = mixed.most - mixed.counts[self.route.adapters[rows.start]]
        return context[:, : context.shape[1] - filling]


def _at(held: Sequence[dict[str, list[nn.Module]]], name: str, number: int) -> list[nn.Module | None]:
    """Return of each adapter the module at a number in a port, or None."""
    return [ports[name][number] if number < len(ports[name]) else None for ports in held]
