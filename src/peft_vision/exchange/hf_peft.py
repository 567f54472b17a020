"""This module reads and writes LoRA in the format of Hugging Face's `peft`: a folder with adapter_config.json and
adapter_model.safetensors.

There a LoRA belongs to a module of the backbone, and timm's q, k and v are one module. So updates of q and v at rank r
are written as a single one of rank 2r: its `lora_A` stacks both `down`, its `lora_B` holds each `up` in its own rows
and columns; updates by several LoRAs are written likewise. alpha / rank stays the same. The classifier is saved as
timm's module `head`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from peft_vision.backbone.quantized import Bits
from peft_vision.core.composition import option
from peft_vision.core.config import build
from peft_vision.core.records import Name, Record, Unreadable, exists, read_record
from peft_vision.core.tensor_files import read_header
from peft_vision.data.splits import LabelKind
from peft_vision.exchange.hf_config import Settings
from peft_vision.exchange.timm_weights import classifiers, plain_head
from peft_vision.method.lora import LowRankUpdate
from peft_vision.models.model import Model
from peft_vision.objective.base import Objective
from peft_vision.runs.run import place

CONFIG, WEIGHTS, NOTES = "adapter_config.json", "adapter_model.safetensors", "peft_vision.json"
_PREFIX = "base_model.model."
_HEAD = f"{_PREFIX}head"
_TARGETS = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
_A_LAYER = re.compile(r"blocks\.(\d{1,4})\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)")


def write(model: Model, folder: Path, **said: Mapping[str, Any]) -> None:
    """Write the folder's files. Raise ValueError where the model is more than a LoRA with a linear head, and where
    timm would compute something else with it. `said`: as for `notes`."""
    chains = _chains(model)
    _check_called(model.encoder.vit, chains)
    weight, bias = plain_head(model)
    tensors, ranks, alphas, dora = {f"{_HEAD}.weight": weight, f"{_HEAD}.bias": bias}, {}, {}, False
    for name, chain in chains.items():
        down, up, magnitude = _fused(name, chain)
        ranks[name], alphas[name] = len(down), chain[0].scale * len(down)
        tensors |= {f"{_PREFIX}{name}.lora_A.weight": down, f"{_PREFIX}{name}.lora_B.weight": up}
        if magnitude is not None:
            dora = True
            tensors[f"{_PREFIX}{name}.lora_magnitude_vector"] = magnitude
    common = next(iter(ranks))
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": f"timm/{model.recipe.without_places().backbone['name']}",
        "target_modules": list(chains),
        "r": ranks[common],
        "lora_alpha": alphas[common],
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != ranks[common]},
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != alphas[common]},
        "lora_dropout": next(iter(chains.values()))[0].dropout.p,
        "bias": "none",
        "use_dora": dora,
        "use_rslora": False,  # the factor is in alpha
        "modules_to_save": ["head"],
        "inference_mode": True,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files = {
        NOTES: notes(model, **said),
        WEIGHTS: save(tensors, {"format": "pt"}),
        CONFIG: f"{json.dumps(config, indent=2)}\n".encode(),  # last: without it a folder is not an adapter
    }
    for name in files:  # files of an earlier export
        (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        place(folder / name, lambda path, content=content: path.write_bytes(content), key="out")


def notes(model: Model, **said: Mapping[str, Any]) -> bytes:
    """Return the content of peft_vision.json, which says what `peft` has no place for. `said`: `timm`, the name and
    arguments with which timm creates the backbone, and `data`, how the data were read, where they are known."""
    content = {
        "labels_are": build(model.recipe.objective, Objective, "objective").labels_are,
        "classes": list(model.recipe.classes),
        "preprocessing": model.recipe.preprocessing.record(),
        "backbone": model.recipe.without_places().backbone,
        **said,
    }
    return f"{json.dumps(content, indent=2)}\n".encode()


def _chains(model: Model) -> dict[str, list[LowRankUpdate]]:
    """Return the LoRAs of each matrix, the outermost first. Raise ValueError where there is no LoRA, or where anything
    else but the head was tuned."""
    wrappers = {name: m for name, m in model.encoder.added().items() if isinstance(m, LowRankUpdate)}
    known = {id(p) for m in wrappers.values() for d in (m.down, m.up, m.magnitude) for p in d.values()}
    tuned = {name: id(p) for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")}
    others = sorted(name for name, parameter_id in tuned.items() if parameter_id not in known)
    if not wrappers or others:
        raise ValueError(f"the format is for LoRA alone, and this run tuned {others[0] if others else 'none'}")
    chains: dict[str, list[LowRankUpdate]] = {}
    for name, wrapper in wrappers.items():  # inner wrappers follow their outer ones
        outer = name.removesuffix(".inner")
        while outer.endswith(".inner"):
            outer = outer.removesuffix(".inner")
        chains.setdefault(outer, []).append(wrapper)
    return chains


def _check_called(vit: nn.Module, paths: Iterable[str]) -> None:
    """Raise ValueError where timm's own forward pass would not run what `peft` puts around a module, or would run a
    classifier that the format does not save."""
    if (names := classifiers(vit)) != ("head",):
        raise ValueError(
            f"the format saves timm's module head, and this backbone classifies by {' and '.join(names)}; "
            "task.format=timm and onnx take it"
        )
    for path in paths:
        above, _, last = path.rpartition(".")
        attention = vit.get_submodule(above)
        has_own_bias = last == "qkv" and getattr(attention, "q_bias", None) is not None
        if has_own_bias and not attention.qkv_bias_separate:
            raise ValueError(
                f"timm reads {path}.weight past what peft puts around that module; task.format=timm merges it in, "
                "and of the other targets (proj, fc1, fc2) a LoRA can be written"
            )


def _fused(name: str, chain: list[LowRankUpdate]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return `down` (R, I), `up` (O, R) and, with DoRA, the length of each row (O,) for all updates of a matrix
    together, to be multiplied by the scale of the first one. Raise ValueError where `peft` cannot express them."""
    updates = [(wrapper, target, rows) for wrapper in chain for target, rows in wrapper.rows.items()]
    down = torch.cat([wrapper.down[target].detach() for wrapper, target, _ in updates])
    ups, weight = [], chain[-1].inner.weight.detach()
    for wrapper, target, rows in updates:
        up = weight.new_zeros(len(weight), len(wrapper.down[target]))
        up[rows] = wrapper.up[target].detach() * (wrapper.scale / chain[0].scale)
        ups.append(up)
    up = torch.cat(ups, dim=1)
    directed = [(wrapper, target, rows) for wrapper, target, rows in updates if wrapper.magnitude]
    if not directed:
        return down, up, None
    lengths = (weight.double() + chain[0].scale * up.double() @ down.double()).norm(dim=1)
    if (lengths == 0).any():
        raise ValueError(f"{name} has a row of zeros, which peft divides by")
    magnitude = lengths.to(weight)  # for rows whose length is not learned
    for wrapper, target, rows in directed:
        if sum(other.start < rows.stop and rows.start < other.stop for _, _, other in updates) > 1:
            raise ValueError(f"{name}: DoRA and another update of the same rows, and peft knows one of them")
        magnitude[rows] = wrapper.magnitude[target].detach()
    return down, up, magnitude


class _Reading(Record):
    resize: Literal["squash", "crop"] | None = None
    full_scale: Annotated[int, Field(ge=1, le=65535)] | None = None


class _Notes(Record):
    labels_are: LabelKind = "classes"
    data: _Reading = _Reading()
    classes: list[Name]
    preprocessing: dict[str, Any]
    backbone: dict[Literal["name", "hash", "frozen_bits"], Name | Bits | None]


class Imported:
    """A LoRA read from a folder of `peft`. `tensors`: by the names of our model. `notes`: what a folder written here
    records of labels, data, classes, preprocessing and backbone; empty for others."""

    def __init__(self, folder: Path) -> None:
        """Read the folder. Raise ValueError where it holds no LoRA, or one that cannot be rebuilt."""
        if not exists(folder / CONFIG):
            raise ValueError(f"no {CONFIG} in {folder}, so it is no adapter of `peft`")
        if not exists(folder / WEIGHTS):
            raise ValueError(f"no {WEIGHTS} in {folder}; other formats may run code and are not read")
        self._said = Settings(folder / CONFIG)
        tensors = _tensors(folder / WEIGHTS)
        self.notes: Mapping[str, Any] = {}
        if exists(folder / NOTES):
            self.notes = read_record(folder / NOTES, _Notes, remedy="remove it to go without").model_dump()
        self.tensors: dict[str, Tensor] = {}
        self._layers: dict[tuple[str, int, float], list[int]] = defaultdict(list)  # by matrix, rank and scale
        for name, tensor in tensors.items():
            if name in (f"{_HEAD}.weight", f"{_HEAD}.bias"):
                kind = name.rpartition(".")[2]
                self.tensors[f"head.0.{kind}"] = tensor
                _check_axes(2 if kind == "weight" else 1, tensor, name, folder / WEIGHTS)
                continue
            module, kind = _own_name(name, folder / WEIGHTS)
            _check_axes(1 if kind == "magnitude" else 2, tensor, name, folder / WEIGHTS)
            index, place = _A_LAYER.fullmatch(module).groups()
            target = _TARGETS[place]
            self.tensors[f"encoder.vit.{module}.{kind}.{target}"] = tensor
            if kind == "down":
                scale = self._said.scale(module, rank=len(tensor))
                self._layers[target, len(tensor), scale].append(int(index))
        if "head.0.weight" not in self.tensors:
            raise ValueError(
                f"{folder / WEIGHTS} holds no classifier (modules_to_save=['head']), so it cannot classify"
            )
        if not self._layers:
            raise ValueError(f"{folder / WEIGHTS} holds no LoRA")

    def method(self) -> dict[str, Any]:
        """Return the config of an equal LoRA of ours, or of several combined where rank, scale or layers differ between
        matrices."""
        alike: dict[tuple[int, float, tuple[int, ...]], list[str]] = defaultdict(list)
        for (target, rank, scale), layers in self._layers.items():
            alike[rank, scale, tuple(sorted(layers))].append(target)
        common = {
            **option("method", "lora"),
            "dropout": self._said.dropout,
            "rank_stabilised": False,  # the factor is in alpha
            "dora": self._said.dora,
        }
        parts = {
            f"lora_{'_'.join(sorted(targets))}_{number}": {
                **common,
                "targets": sorted(targets),
                "rank": rank,
                "alpha": scale * rank,
                "layers": list(layers),
            }
            for number, ((rank, scale, layers), targets) in enumerate(alike.items())
        }
        return next(iter(parts.values())) if len(parts) == 1 else {**option("method", "combined"), "parts": parts}

    @property
    def num_classes(self) -> int:
        return len(self.tensors["head.0.weight"])


def _own_name(name: str, path: Path) -> tuple[str, str]:
    """Return the module of a tensor, and the name of the tensor in our LoRA. Raise ValueError for any other tensor."""
    kinds = {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_magnitude_vector": "magnitude"}
    for ending, kind in kinds.items():
        module = name.removeprefix(_PREFIX).removesuffix(ending)
        if name == f"{_PREFIX}{module}{ending}" and _A_LAYER.fullmatch(module):
            return module, kind
    raise ValueError(f"{path}: {name} is no LoRA of attn.qkv, attn.proj, mlp.fc1 or mlp.fc2 of a timm ViT")


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of the file in their floating types. Raise ValueError where they are not finite floats."""
    header = read_header(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in header.tensors}
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise Unreadable(path, f"tensor {wrong[0]} holds NaN or infinity")
    return tensors


def _check_axes(axes: int, tensor: Tensor, name: str, path: Path) -> None:
    if tensor.ndim != axes:
        raise Unreadable(path, f"tensor {name} has shape {tuple(tensor.shape)}")
