"""LoRA in the format of Hugging Face's `peft`: a folder with adapter_config.json and adapter_model.safetensors.

There a LoRA belongs to a module of the backbone, and timm's q, k and v are one. So updates of q and v at rank r are
written as one of rank 2r: its `lora_A` is both `down` above each other, its `lora_B` holds each `up` in the rows and
columns of its own; updates by several LoRAs likewise. alpha / rank stays what it was. The classifier is saved as
`head`, a module of timm's.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from peft_vision.composition import option
from peft_vision.exchange.timm_weights import plain_head
from peft_vision.method.lora import PLACES, LowRank
from peft_vision.model import Model
from peft_vision.run import place

CONFIG, WEIGHTS, NOTES = "adapter_config.json", "adapter_model.safetensors", "peft_vision.json"
_PREFIX = "base_model.model."
_HEAD = f"{_PREFIX}head"
_A_LAYER = re.compile(r"blocks\.(\d+)\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)")
_SUPPORTED = {  # what else may be set, and to what
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "modules_to_save": (["head"],),
    "use_rslora": (False, True),
    "use_dora": (False, True),
}
_MEANS_NOTHING = (  # to what the tensors compute
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
)
_NOTHING = (None, False, {}, [], "")


def write(model: Model, folder: Path) -> None:
    """ValueError where the model is more than a LoRA with a linear head."""
    chains = _chains(model)
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
        "base_model_name_or_path": f"timm/{model.recipe.backbone['name']}",
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
    notes = {
        "classes": list(model.recipe.classes),
        "preprocessing": model.recipe.preprocessing.record(),
        "backbone": model.recipe.backbone,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files = {
        NOTES: f"{json.dumps(notes, indent=2)}\n".encode(),
        WEIGHTS: save(tensors, {"format": "pt"}),
        CONFIG: f"{json.dumps(config, indent=2)}\n".encode(),  # the last: without it a folder is no adapter
    }
    for name in files:  # of an export before this one
        (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        place(folder / name, lambda path, content=content: path.write_bytes(content), key="out")


def _chains(model: Model) -> dict[str, list[LowRank]]:
    """The LoRAs of each matrix, the outermost first. ValueError where anything else was tuned beside the head."""
    wrappers = {name: m for name, m in model.encoder.added().items() if isinstance(m, LowRank)}
    known = {id(p) for m in wrappers.values() for d in (m.down, m.up, m.magnitude) for p in d.values()}
    tuned = {name: id(p) for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")}
    others = sorted(name for name, its_id in tuned.items() if its_id not in known)
    if not wrappers or others:
        raise ValueError(f"the format is for LoRA alone, and this run tuned {others[0] if others else 'none'}")
    chains: dict[str, list[LowRank]] = {}
    for name, wrapper in wrappers.items():  # an inner one follows its outer one
        outer = name.removesuffix(".inner")
        while outer.endswith(".inner"):
            outer = outer.removesuffix(".inner")
        chains.setdefault(outer, []).append(wrapper)
    return chains


def _fused(name: str, chain: list[LowRank]) -> tuple[Tensor, Tensor, Tensor | None]:
    """`down` (R, I), `up` (O, R) and the length of each row (O,) of all updates of a matrix together, which are
    multiplied by the scale of the first."""
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
    magnitude = lengths.to(weight)  # of rows whose length is not learned
    for wrapper, target, rows in directed:
        if sum(other.start < rows.stop and rows.start < other.stop for _, _, other in updates) > 1:
            raise ValueError(f"{name}: DoRA and another update of the same rows, and peft knows one of them")
        magnitude[rows] = wrapper.magnitude[target].detach()
    return down, up, magnitude


class Imported:
    """A LoRA read from such a folder: `tensors` by the names of our model, and `notes`, what a folder that was written
    here says of classes, preprocessing and backbone, else nothing."""

    def __init__(self, folder: Path) -> None:
        """ValueError where the folder holds no LoRA, or one that cannot be rebuilt."""
        self._said = _read_json(folder / CONFIG)
        _check(self._said, folder / CONFIG)
        try:
            tensors = load_file(folder / WEIGHTS)
        except FileNotFoundError as error:
            raise ValueError(f"no {WEIGHTS} in {folder}; other formats may run code and are not read") from error
        except (SafetensorError, OSError) as error:
            raise ValueError(f"cannot read {folder / WEIGHTS}: {error}") from error
        self.notes = _read_json(folder / NOTES) if (folder / NOTES).is_file() else {}
        self.tensors: dict[str, Tensor] = {}
        self._layers: dict[tuple[str, int, float], list[int]] = defaultdict(list)  # of each matrix, rank and scale
        for name, tensor in tensors.items():
            if name in (f"{_HEAD}.weight", f"{_HEAD}.bias"):
                self.tensors[f"head.0.{name.rpartition('.')[2]}"] = tensor
                continue
            module, own = _own_name(name, folder / WEIGHTS)
            index, place = _A_LAYER.fullmatch(module).groups()
            target = PLACES[place][-1]
            self.tensors[f"encoder.vit.{module}.{own}.{target}"] = tensor
            if own == "down":
                self._layers[target, len(tensor), _scale(self._said, module, len(tensor))].append(int(index))
        if "head.0.weight" not in self.tensors:
            raise ValueError(
                f"{folder / WEIGHTS} holds no classifier (modules_to_save=['head']), so it cannot classify"
            )
        if not self._layers:
            raise ValueError(f"{folder / WEIGHTS} holds no LoRA")

    def method(self) -> dict[str, Any]:
        """A LoRA of ours; where rank, scale or layers differ between matrices, several of them combined."""
        alike: dict[tuple[int, float, tuple[int, ...]], list[str]] = defaultdict(list)
        for (target, rank, scale), layers in self._layers.items():
            alike[rank, scale, tuple(sorted(layers))].append(target)
        common = {
            **option("method", "lora"),
            "dropout": self._said.get("lora_dropout", 0.0),
            "rank_stabilised": False,  # the factor is in alpha
            "dora": bool(self._said.get("use_dora")),
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
    """The module of a tensor, and what our LoRA calls it."""
    kinds = {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_magnitude_vector": "magnitude"}
    for ending, own in kinds.items():
        module = name.removeprefix(_PREFIX).removesuffix(ending)
        if name == f"{_PREFIX}{module}{ending}" and _A_LAYER.fullmatch(module):
            return module, own
    raise ValueError(f"{path}: {name} is no LoRA of attn.qkv, attn.proj, mlp.fc1 or mlp.fc2 of a timm ViT")


def _scale(said: Mapping[str, Any], module: str, rank: int) -> float:
    """By what the update of `module` is multiplied."""
    alpha = said["lora_alpha"]
    for key, own in (said.get("alpha_pattern") or {}).items():
        if f".{module}".endswith(f".{key}"):
            alpha = own
    return alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)


def _check(said: Mapping[str, Any], path: Path) -> None:
    if said.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type {said.get('peft_type')}, where only LORA can be read")
    if not isinstance(said.get("lora_alpha"), int | float):
        raise ValueError(f"{path}: no lora_alpha")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = said.get(key) or {}
        if not isinstance(patterns, dict) or not all(re.fullmatch(r"[\w.]+", name) for name in patterns):
            raise ValueError(f"{path}: {key}={patterns!r} is not supported; names of modules are")
        if not all(isinstance(value, int | float) for value in patterns.values()):
            raise ValueError(f"{path}: {key}={patterns!r} should hold numbers")
    known = {"peft_type", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", *_MEANS_NOTHING}
    for key, value in said.items():
        fine = key in known or value in _NOTHING or (key in _SUPPORTED and value in _SUPPORTED[key])
        if not fine:
            raise ValueError(f"{path}: {key}={value!r} is not supported")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"no {path.name} in {path.parent}, so it is no adapter of `peft`") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found
