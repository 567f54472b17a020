"""Adapter files: what a run tuned, with all that is needed to put it on the same backbone again.

A safetensors file of the tuned tensors and the head. Its metadata hold, as JSON: `method` and `head` (their configs),
`classes`, `preprocessing`, `backbone` (name and hash of the weights that it belongs to) and `phases` (how many of the
method's phases have begun).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from peft_vision.backbone.weights import weights_hash
from peft_vision.config import build
from peft_vision.head import Head
from peft_vision.method.base import Method
from peft_vision.model import Model, assemble
from peft_vision.preprocessing import Preprocessing

FORMAT = "peft-vision adapter 3"


@dataclass(frozen=True)
class Recipe:
    """How a model was assembled: configs of method and head, class names, preprocessing, and the backbone's name and
    the hash of its weights before anything was attached."""

    method: dict[str, Any]
    head: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    backbone: dict[str, str]

    def assemble(self, vit: VisionTransformer, *, seed: int) -> Model:
        """Takes `vit` over."""
        model = assemble(
            vit,
            method=build(self.method, Method, "method"),
            head=build(self.head, Head, "head"),
            num_classes=len(self.classes),
            preprocessing=self.preprocessing,
            seed=seed,
        )
        model.recipe = self
        return model

    def metadata(self) -> dict[str, str]:
        """As safetensors keeps it: texts."""
        values = {
            "method": self.method,
            "head": self.head,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.record(),
            "backbone": self.backbone,
        }
        return {"format": FORMAT, **{key: json.dumps(value) for key, value in values.items()}}

    @classmethod
    def restore(cls, metadata: Mapping[str, str]) -> "Recipe":
        """The inverse of `metadata`."""
        values = {key: json.loads(metadata[key]) for key in ("method", "head", "classes", "backbone")}
        values["classes"] = tuple(values["classes"])
        return cls(**values, preprocessing=Preprocessing.restore(json.loads(metadata["preprocessing"])))


def write_adapter(model: Model, path: str | Path) -> None:
    """Writes what `model` tuned. An OSError is the disk's, and the file is as readable as any other."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.tuned_state().items()}
    metadata = {**model.recipe.metadata(), "phases": str(model.begun)}
    Path(path).write_bytes(save(tensors, metadata=metadata))


def write_probe(model: Model, path: str | Path) -> None:
    """Writes the head alone, and how `model` was assembled: all there is of a phase that trained nothing else."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.tuned_state().items() if _of_head(name)}
    metadata = {**model.recipe.metadata(), "phases": str(model.begun)}
    Path(path).write_bytes(save(tensors, metadata=metadata))


def load_probe(model: Model, path: str | Path) -> None:
    """Puts such a head into `model`, which is in its first phase."""
    _, _, tensors = read_adapter(path)
    load_tuned(model, {**model.tuned_state(), **tensors})


def _of_head(name: str) -> bool:
    return name.startswith("head.")


def read_adapter(path: str | Path) -> tuple[Recipe, int, dict[str, Tensor]]:
    """The recipe, the number of phases and the tuned tensors of an adapter file. ValueError where it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a {FORMAT!r} file")
    return Recipe.restore(metadata), int(metadata["phases"]), tensors


def load_tuned(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Puts tuned tensors back; ValueError where they are not exactly those that `model` tunes."""
    own = model.tuned_state()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    misfits = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if missing or unknown or misfits:
        raise ValueError(
            f"the tuned tensors do not fit: missing {missing[:3]}, unknown {unknown[:3]}, other shape {misfits[:3]}"
        )
    model.load_state_dict(dict(tensors), strict=False)


def attach_adapter(vit: VisionTransformer, path: str | Path) -> Model:
    """The model whose adapter is in `path`, on the backbone it was trained on; takes `vit` over.

    ValueError where `vit` has other weights than the adapter was trained on and keeps any of them.
    """
    recipe, phases, tensors = read_adapter(path)
    found = weights_hash(vit)
    model = recipe.assemble(vit, seed=0)
    while model.begun < phases:
        model.begin_next_phase(seed=0)
    keeps_weights = any(not parameter.requires_grad for parameter in model.encoder.parameters())
    if keeps_weights and found != recipe.backbone["hash"]:
        raise ValueError(
            f"{path} was trained on other weights ({recipe.backbone['name']}, hash {recipe.backbone['hash'][:12]}) "
            f"than these (hash {found[:12]})"
        )
    load_tuned(model, tensors)
    return model.eval()
