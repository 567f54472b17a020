"""This module writes and reads adapter files, which hold what a run tuned and how to attach it to the same backbone.

An adapter file is a safetensors file of the tuned tensors and the head. Its metadata hold, as JSON: `method`, `head`
and `objective` (their configs; the latter only if it is not one class a picture), `classes`, `preprocessing`,
`backbone` (name and hash of the weights that it belongs to, and the bits that its frozen matrices are then held in, if
they are), `phases` (the number of the method's phases that have begun) and, except in older files, `crc32` (of the
tensors, so that a flipped bit is noticed) and `likeness` (features and logits that the model computes for two fixed
pictures). No file is trusted, whoever wrote it: nothing is used before it is checked, nothing is built that the tensors
do not account for, and only the modules that `trust` allows are imported for it."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from peft_vision.backbone.quantized import Bits
from peft_vision.backbone.source import without_places
from peft_vision.backbone.weights import weights_hash
from peft_vision.core.config import ConfigError, build, shortened
from peft_vision.core.identity import hashed
from peft_vision.core.output import one_line
from peft_vision.core.preprocessing import Preprocessing, one_size, size_in_words
from peft_vision.core.records import Bounds, Name, Record, Unreadable, parse_json, validated
from peft_vision.core.tensor_files import FLOATS, read_header
from peft_vision.core.trust import Bounded, TooLarge, check_targets
from peft_vision.head.base import Head
from peft_vision.method.base import Method
from peft_vision.models.likeness import Likeness, likeness, unlike
from peft_vision.models.model import Model, Parts, assemble
from peft_vision.objective.base import Objective
from peft_vision.objective.single_label import ONE_CLASS

FORMAT = "peft-vision adapter 3"
_METADATA = Bounds(size=2**24, depth=12, text=1000, values=200_000)  # ImageNet-21k has a tenth as many classes
_RECIPE_VALUES = 5_000
_PARTS = ("method", "head", "classes", "preprocessing", "backbone", "objective")
_PHASES = 16
_CHECKSUM = "crc32"
_SPARE = 2**22  # elements that may be allocated in addition to the tuned tensors
_WIDEST = 2**18  # input features of a temporary head, which a later phase replaces


class _Weights(Record):
    name: Name
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    frozen_bits: Bits | None = None


class _Metadata(Record):
    method: dict[str, Any]
    head: dict[str, Any]
    objective: dict[str, Any] = Field(default_factory=lambda: dict(ONE_CLASS))
    classes: Annotated[list[Name], Field(min_length=1)]
    preprocessing: dict[str, Any]
    backbone: _Weights
    phases: Annotated[int, Field(ge=1, le=_PHASES)]
    likeness: Likeness | None = None


@dataclass(frozen=True)
class Recipe:
    """A record of how a model was assembled: the configs of method, head and objective, the names of classes or
    targets, preprocessing, and the backbone's name, the hash of its weights before anything was attached, and the bits
    that its frozen matrices are then held in, if they are."""

    method: dict[str, Any]
    head: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    backbone: dict[str, Any]
    objective: dict[str, Any] = field(default_factory=lambda: dict(ONE_CLASS))

    @property
    def frozen_bits(self) -> Bits | None:
        """Return the bits of the backbone's frozen matrices; None where they are as they were loaded."""
        return self.backbone.get("frozen_bits")

    def assemble(self, vit: VisionTransformer, *, seed: int) -> Model:
        """Assemble the model around `vit`, which becomes part of it and is changed in place."""
        parts = Parts(
            method=build(self.method, Method, "method"),
            head=build(self.head, Head, "head"),
            criterion=build(self.objective, Objective, "objective").criterion(self.classes),
            preprocessing=self.preprocessing,
            frozen_bits=self.frozen_bits,
        )
        return assemble(vit, parts, seed=seed, recipe=self)

    def without_places(self) -> "Recipe":
        """Return the recipe for other people, whose backbone has a name without the folders of this machine."""
        return replace(self, backbone=without_places(self.backbone))

    def metadata(self) -> dict[str, str]:
        """Return the recipe as safetensors metadata, which must be strings: JSON, except for `format`."""
        values = {
            "method": shortened(self.method),
            "head": shortened(self.head),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.record(),
            "backbone": self.backbone,
        }
        if hashed(build(self.objective, Objective, "objective")) != ONE_CLASS:
            values["objective"] = shortened(self.objective)
        return {"format": FORMAT, **{key: json.dumps(value) for key, value in values.items()}}


@dataclass(frozen=True)
class Adapter:
    """The checked contents of an adapter file. `phases`: the number of phases that have begun; `likeness`: None in
    files of older versions and of models that have no likeness."""

    path: Path
    recipe: Recipe
    phases: int
    tensors: Mapping[str, Tensor]
    likeness: Likeness | None

    def assemble(self, vit: VisionTransformer) -> Model:
        """Return a model with the file's shapes, in the file's phase and with initial values; `vit` becomes part of it
        and is changed in place. Raise Unreadable if the recipe cannot be built, or allocates more than the tensors
        account for."""
        backbone = sum(parameter.numel() for parameter in vit.parameters())
        tuned = sum(tensor.numel() for tensor in self.tensors.values())
        try:
            with Bounded(4 * tuned + backbone + _WIDEST * len(self.recipe.classes) + _SPARE):
                model = self.recipe.assemble(vit, seed=0)
                if self.phases > len(model.phases):
                    raise Unreadable(self.path, f"{self.phases} phases have begun, where there are {len(model.phases)}")
                while model.begun < self.phases:
                    model.begin_next_phase(seed=0)
        except TooLarge as error:
            raise Unreadable(self.path, "its recipe builds more than its tensors account for") from error
        except Unreadable:
            raise
        except ConfigError as error:
            raise Unreadable(self.path, str(error)) from error
        except Exception as error:  # a class may fail in any way on values that it was not written for
            raise Unreadable(self.path, f"its recipe cannot be built: {type(error).__name__}: {error}") from error
        return model


def write_adapter(model: Model, path: str | Path, *, recipe: Recipe | None = None) -> None:
    """Write what `model` tuned, with its recipe or the given one. A disk error is raised as OSError, and the file gets
    the default permissions."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.tuned_state().items()}
    metadata = {**(recipe or model.recipe).metadata(), "phases": str(model.begun)}
    if (seen := likeness(model)) is not None:
        metadata["likeness"] = seen.model_dump_json()
    _write(tensors, metadata, path)


def write_probe(model: Model, path: str | Path) -> None:
    """Write the head and what the criterion holds, with the recipe of `model`: enough to restore a phase that trained
    nothing else."""
    kept = ("head.", "criterion.")
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.tuned_state().items() if name.startswith(kept)}
    _write(tensors, {**model.recipe.metadata(), "phases": str(model.begun)}, path)


def _write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | Path) -> None:
    content = save(dict(tensors), metadata={**metadata, _CHECKSUM: _checksum(tensors)})
    Path(path).write_bytes(content)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of the tensors' names and bytes, in the order of their names."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(memoryview(tensors[name].contiguous().flatten().view(torch.uint8).numpy()), crc)
    return str(crc)


def load_probe(model: Model, path: str | Path) -> None:
    """Load what `write_probe` wrote, of old the head alone, into `model`, which must be in its first phase."""
    load_tuned(model, {**model.tuned_state(), **read_adapter(path).tensors})


def _of_head(name: str) -> bool:
    return name.startswith("head.")


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter file and check everything that can be checked without a backbone. Raise Unreadable, a ValueError,
    if it is not a valid adapter file."""
    path = Path(path)
    header = read_header(path, dtypes=FLOATS | {"I64"})
    if header.metadata.get("format") != FORMAT:
        raise Unreadable(path, f"it is not a {FORMAT!r} file")
    values = {key: _parsed(header.metadata, key, path) for key in (*_PARTS, "phases", "likeness")}
    metadata = validated({key: value for key, value in values.items() if value is not None}, path, _Metadata)
    try:
        for key in ("method", "head", "objective"):
            check_targets(getattr(metadata, key), key)
        preprocessing = Preprocessing.restore(metadata.preprocessing)
    except (ConfigError, ValueError) as error:
        raise Unreadable(path, str(error)) from error
    recipe = Recipe(
        method=metadata.method,
        head=metadata.head,
        classes=tuple(metadata.classes),
        preprocessing=preprocessing,
        backbone=metadata.backbone.model_dump(exclude_none=True),
        objective=metadata.objective,
    )
    biases = [place.shape for name, place in header.tensors.items() if _of_head(name)]
    if not any(shape[:1] == (len(recipe.classes),) for shape in biases):
        raise Unreadable(path, f"it names {len(recipe.classes)} classes, and no tensor of its head is of so many")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in header.tensors}
    except (SafetensorError, OSError) as error:
        raise Unreadable(path, str(error)) from error
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise Unreadable(path, f"tensor {wrong[0]} holds NaN or infinity")
    if header.metadata.get(_CHECKSUM, "") not in ("", _checksum(tensors)):
        raise Unreadable(path, "its checksum is wrong: a tensor is not what was written")
    return Adapter(path, recipe, metadata.phases, tensors, metadata.likeness)


def _parsed(metadata: Mapping[str, str], key: str, path: Path) -> Any:
    """Return the parsed value of a metadata key, or None if there is no such key."""
    if key not in metadata:
        return None
    bounds = _METADATA if key == "classes" else replace(_METADATA, values=_RECIPE_VALUES)
    try:
        return parse_json(metadata[key], path, bounds)
    except Unreadable as error:
        raise Unreadable(path, f"{key}: {error.reason}") from error


def load_tuned(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Load tuned tensors into `model`; raise ValueError unless they have exactly the names, shapes and kinds
    (floating-point or not) of those that `model` tunes."""
    if words := _misfits(model.tuned_state(), tensors):
        raise ValueError(f"the tuned tensors do not fit: {words}")
    model.load_state_dict(dict(tensors), strict=False)


def _misfits(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return in words which tensors are not the same in names, shapes or kinds; nothing where all are."""
    missing, unknown = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    shared = sorted(state.keys() & tensors.keys())
    misfits = [name for name in shared if state[name].shape != tensors[name].shape]
    kinds = [name for name in shared if state[name].is_floating_point() != tensors[name].is_floating_point()]
    if not (missing or unknown or misfits or kinds):
        return ""
    found = {"missing": missing, "unknown": unknown, "other shape": misfits, "other type": kinds}
    return ", ".join(f"{what} {one_line(names[:3])}" for what, names in found.items() if names or what != "other type")


def _own(model: Model) -> None:
    """Copy what `model` tunes, so that loading it changes no tensor in the same memory."""
    tuned = model.tuned_state().keys()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name in tuned:
            tensor.data = tensor.data.clone()


def attach_adapter(vit: VisionTransformer, path: str | Path, *, shared_hash: str | None = None) -> Model:
    """Return the model whose adapter is in `path`, in evaluation mode, on the backbone it was trained on; `vit` becomes
    part of the model and is changed in place. `shared_hash`: the hash of its weights where other models share their
    memory, which is then left as it is: what the adapter changes of them is copied.

    Raise ValueError if `vit` has other weights than the adapter was trained on and any of them stay frozen, if it
    computes something else with equal weights, or if the image size or the tensors do not fit.
    """
    adapter = read_adapter(path)
    recipe = adapter.recipe
    found = shared_hash or weights_hash(vit)
    device = next(vit.parameters()).device
    model = adapter.assemble(vit).to(device)
    keeps_weights = any(not parameter.requires_grad for parameter in model.encoder.parameters())
    if keeps_weights and found != recipe.backbone["hash"]:
        differing = _misfits(model.tuned_state(), adapter.tensors)
        raise ValueError(
            f"{path} was trained on other weights ({one_line(recipe.backbone['name'])}, "
            f"hash {recipe.backbone['hash'][:12]}) than these (hash {found[:12]}){differing and '; '}{differing}"
        )
    if shared_hash is not None:
        _own(model)
    size = model.encoder.image_size
    if size is not None and recipe.preprocessing.sides != size:
        meant, taken = (size_in_words(found) for found in (recipe.preprocessing.size, one_size(*size)))
        raise ValueError(f"{path} is for pictures of {meant}, this backbone for {taken}")
    try:
        load_tuned(model, adapter.tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if adapter.likeness is not None and (words := unlike(model, adapter.likeness)) is not None:
        raise ValueError(
            f"{path} belongs on a backbone that computes something else than this one, though its weights are equal: "
            f"{words}; compare pool, heads, activation and norms"
        )
    return model.eval()
