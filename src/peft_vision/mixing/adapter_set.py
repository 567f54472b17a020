"""This module holds several adapters on one frozen backbone, and answers batches whose images belong to any of them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.source import HUB
from peft_vision.backbone.weights import weights_hash
from peft_vision.core.output import one_line
from peft_vision.mixing.mixture import Changes, Mixture, addresses, sharing
from peft_vision.models.adapter import attach_adapter
from peft_vision.models.likeness import pictures
from peft_vision.models.model import Model
from peft_vision.models.on_hub import ADAPTER, fetched

_log = logging.getLogger("peft_vision")
_NAMED = 8  # adapters that an error names
_TOLERANCE = 1e-3  # relative to the length of the predictions, as for the likeness of a model


class AdapterSet:
    """Adapters on one backbone, by name.

        adapters = AdapterSet(vit)
        adapters.add("pets", "runs/lora-...-s0-.../")           # or the path of an adapter file
        adapters.add("flowers", "flowers.safetensors")          # or hf-hub:owner/name
        adapters(images, "pets")                                # (B, 37): what `load` gives
        adapters(images, ["pets", "flowers", "pets"])           # [(37,), (102,), (37,)], in one pass
        adapters.model("flowers")                               # the model itself, which costs nothing to switch to

    Images (B, C, H, W) are as for a model: uint8, or floats normalised as the backbone expects. The memory of the
    backbone's weights is that of `vit`, which must stay as it is and lie on the device that is to compute; an adapter
    adds its own tensors. The set only predicts: it trains nothing, and keeps no gradients. `apart`: the names of the
    adapters whose images cannot share a pass with those of others, and why; they are computed by their own model, with
    the same result.
    """

    def __init__(self, vit: nn.Module) -> None:
        self._vit = sharing(vit)
        self._vit.reset_classifier(0)
        self._hash = weights_hash(self._vit)
        self._shared = addresses(self._vit)
        self._models: dict[str, Model] = {}
        self._changes: dict[str, Changes] = {}
        self._mixture: tuple[dict[str, int], Mixture] | None = None
        self._lock = Lock()
        self.apart: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the adapters, in the order in which they were added."""
        return tuple(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def model(self, name: str) -> Model:
        """Return the model of an adapter, in evaluation mode. Raise ValueError for an unknown name."""
        if name not in self._models:
            there = ", ".join(map(one_line, self.names[:_NAMED])) + (", ..." if self.names[_NAMED:] else "")
            raise ValueError(f"no adapter {one_line(name)!r}; there are {there or 'none yet'}")
        return self._models[name]

    def add(
        self, name: str, path: str | Path, *, rounded_to: tuple[torch.dtype, torch.dtype] = (torch.float32,) * 2
    ) -> Model:
        """Add the adapter of a file, of a finished run's folder, or of a run on the hub, hf-hub:owner/name[@revision],
        and return its model. `rounded_to`: the floating types of what is observed of the frozen backbone, and of grids
        of it. Raise ValueError, as `load` does, where the adapter does not belong on this backbone, and where the name
        is taken; ConfigError if the hub cannot be had."""
        if name in self._models:
            raise ValueError(f"there is an adapter {one_line(name)!r} already; remove it first, or take another name")
        path = fetched(str(path)) if str(path).startswith(HUB) else Path(path)
        model = attach_adapter(sharing(self._vit), path / ADAPTER if path.is_dir() else path, shared_hash=self._hash)
        model.round_observations_to(rounded_to[0], grid=rounded_to[1])
        with self._lock:
            self._models[name] = model
            self._changes[name] = Changes(model, self._shared)
            self._mixture = None
            bits = model.recipe.frozen_bits
            rounded = None if bits is None else f"its frozen matrices are held in {bits} bit, those of the set are not"
            if (reason := self._changes[name].reason or rounded or self._otherwise(name)) is not None:
                self.apart[name] = reason
        return model

    def remove(self, name: str) -> None:
        """Remove an adapter and free its tensors. Raise ValueError for an unknown name."""
        self.model(name)
        with self._lock:
            del self._models[name], self._changes[name]
            self.apart.pop(name, None)
            self._mixture = None

    @torch.no_grad()
    def __call__(self, images: Tensor, names: str | Sequence[str]) -> Tensor | list[Tensor]:
        """Return the predictions of images (B, C, H, W): by one adapter (B, C_a), or, for a name for each image, a list
        of B tensors (C_a,), where C_a is the number of classes or targets of its adapter; those of a model that
        segments have a height and width too. Raise ValueError for an unknown name, or not one for each image."""
        if isinstance(names, str):
            return self.model(names)(images)
        if len(names) != len(images):
            raise ValueError(f"{len(names)} names of adapters for {len(images)} images, should be one each")
        for name in dict.fromkeys(names):
            self.model(name)
        answers: list[Tensor | None] = [None] * len(images)
        with self._lock:
            for places, predicted in self._predicted(images, names):
                for place, row in zip(places, predicted, strict=True):
                    answers[place] = row
        return answers

    def _predicted(self, images: Tensor, names: Sequence[str]) -> list[tuple[list[int], Tensor]]:
        """Return the predictions of the images of each adapter, and the places of these in the batch."""
        of: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            of.setdefault(name, []).append(place)
        passes: dict[object, list[str]] = {}
        for name in of:
            key = name if name in self.apart else self._changes[name].key(self._models[name])
            passes.setdefault(key, []).append(name)
        found: list[tuple[list[int], Tensor]] = []
        for together in passes.values():
            if len(together) == 1:
                places = of[together[0]]
                found.append((places, self._models[together[0]](images[places])))
                continue
            numbers, mixture = self._mixed()
            together = sorted(together, key=numbers.__getitem__)
            places = [place for name in together for place in of[name]]
            outputs = mixture(images[places], [numbers[name] for name in together for _ in of[name]])
            found += zip((of[name] for name in together), outputs, strict=True)
        return found

    def _mixed(self) -> tuple[Mapping[str, int], Mixture]:
        """Return the mixture of all adapters that can share a pass, and the number of each in it: those of one config
        are neighbours, so that they are computed at once."""
        if self._mixture is None:
            names = [name for name in self._models if name not in self.apart]
            names.sort(key=lambda name: repr(self._models[name].recipe.method))
            mixture = self._mixture_of([self._models[name] for name in names], [self._changes[name] for name in names])
            self._mixture = {name: number for number, name in enumerate(names)}, mixture
        return self._mixture

    def _mixture_of(self, models: Sequence[Model], changes: Sequence[Changes]) -> Mixture:
        encoder = Encoder(sharing(self._vit), models[0].encoder.preprocessing)
        return Mixture(encoder, models, changes, self._shared)

    @torch.no_grad()
    def _otherwise(self, name: str) -> str | None:
        """Return that an adapter, which may have modules of an author's own, computes something else in a pass for
        several adapters than by itself; None where it does not."""
        model = self._models[name]
        shown = pictures(model.preprocessing.size, channels=model.preprocessing.channels)
        images = shown.to(next(model.parameters()).device)
        tensors = [*model.parameters(), *model.buffers()]
        memory = [tensor.data for tensor in tensors]
        try:
            mixture = self._mixture_of([model, model], [self._changes[name]] * 2)
            mixed = torch.cat(mixture(images, [0, 1]))
        except Exception as error:  # a module of an author's own may fail in any way
            reason = f"its modules do not compute in a pass of several adapters ({type(error).__name__})"
        else:
            alone = model(images)
            if (mixed - alone).norm() <= _TOLERANCE * alone.norm():
                return None
            reason = "in a pass of several adapters it computes something else than by itself"
        finally:
            for tensor, own in zip(tensors, memory, strict=True):  # which the mixture has stacked
                tensor.data = own
        _log.warning("%s is computed apart: %s", one_line(name), reason)
        return reason
