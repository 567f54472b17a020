"""This module loads weights from a file into a timm ViT: safetensors, Google's npz or a torch file, completely or not
at all.

timm's `checkpoint_filter_fn` converts names (OpenAI CLIP, DINOv2, ...) and resamples position embeddings and patches;
classifier heads are dropped; after that every tensor must fit.
"""

import argparse
import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from peft_vision.backbone.npz import read_npz
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Preprocessing

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "encoder")  # in order of preference
_PREFIXES = re.compile(r"^(_orig_mod\.|module\.|backbone\.|encoder\.vit\.)+")  # compile, DDP, DINO, our own
_HEADS = ("head.", "head_dist.", "decoder_")  # the last is MAE's
_UNREADABLE = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError)
_NAMED = 3  # tensors of each kind that an error names


def load_weights(vit: VisionTransformer, path: Path) -> None:
    """Fill `vit`, whose num_classes is 0, from the file; fp16 and bf16 are converted to fp32. Raise ConfigError where
    the file cannot be read, or a tensor is missing, unexpected or of another shape."""
    state = _stripped(_read(path), path)
    try:
        state = checkpoint_filter_fn(state, vit, **_resampling(vit))
    except (RuntimeError, ValueError, AssertionError, LookupError) as error:
        raise ConfigError(f"{_title(vit, path)}: {_first_line(error)}") from error
    state = {name: tensor.float() for name, tensor in state.items() if not name.startswith(_HEADS)}
    expected = vit.state_dict()
    if vit.attn_pool is None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("attn_pool.")}
    state = _moved_norm(state, expected)
    _require_fit(state, expected, _title(vit, path))
    vit.load_state_dict(state)


def recorded_preprocessing(path: Path) -> Preprocessing | None:
    """Return the preprocessing recorded in a safetensors file of ours; None for any other file. Raise ConfigError where
    the file cannot be read."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            record = (file.metadata() or {}).get("preprocessing")
        return None if record is None else Preprocessing.restore(json.loads(record))
    except (SafetensorError, *_UNREADABLE, AttributeError) as error:
        raise _unreadable(path, error) from error


def weights_hash(vit: VisionTransformer) -> str:
    """Return the sha256, in hex, of names, types, shapes and bytes: equal weights have equal hashes on any machine."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            return read_npz(path)
        # training scripts save their arguments with the weights; a Namespace runs no code
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "no torch file, or one with pickled code, which is never run; safetensors files hold none"
        raise ConfigError(f"backbone.checkpoint: cannot read {path}: {reason}") from error
    except (SafetensorError, *_UNREADABLE) as error:
        raise _unreadable(path, error) from error


def _stripped(state: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors by name, without the dicts that trainers wrap around them and the prefixes of their names."""
    while isinstance(state, Mapping) and (wrapper := next((w for w in _WRAPPERS if w in state), None)):
        state = state[wrapper]
    if not isinstance(state, Mapping):
        raise ConfigError(f"backbone.checkpoint: {path} holds no state dict but a {type(state).__name__}")
    if strangers := [str(name) for name, value in state.items() if not isinstance(value, Tensor)]:
        held = _listed("entries", strangers)
        raise ConfigError(f"backbone.checkpoint: {path} holds no state dict but {held}")
    return {_PREFIXES.sub("", str(name)): tensor for name, tensor in state.items()}


def _resampling(vit: VisionTransformer) -> dict[str, Any]:
    """Return the options of timm's resampling: bilinear for FlexiViT, which was trained with it, as in timm."""
    flexible = "flexi" in (getattr(vit, "pretrained_cfg", {}).get("architecture") or "")
    return {"interpolation": "bilinear", "antialias": False} if flexible else {}


def _moved_norm(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with the model's fresh final norm where the file has one on the other side of the pooling, as in
    the official MAE code and in timm: the pretrained norm belongs to single tokens and not to their mean."""
    for here, there in (("norm.", "fc_norm."), ("fc_norm.", "norm.")):
        fresh = {name: tensor for name, tensor in expected.items() if name.startswith(here)}
        moved = {name for name in state if name.startswith(there)}
        if fresh and moved and not state.keys() & fresh.keys():
            return {name: tensor for name, tensor in state.items() if name not in moved} | fresh
    return state


def _require_fit(state: dict[str, Tensor], expected: dict[str, Tensor], title: str) -> None:
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected
            if name in state and state[name].shape != expected[name].shape
        ],
    }
    found = {kind: names for kind, names in faults.items() if names}
    if found:
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in found.items())
        raise ConfigError(f"{title}: {counts}\n{'; '.join(map(_listed, found, found.values()))}")


def _listed(kind: str, names: list[str]) -> str:
    return f"{kind}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"


def _title(vit: VisionTransformer, path: Path) -> str:
    return f"backbone.checkpoint: {path} does not fit {vit.pretrained_cfg['architecture']}"


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"backbone.checkpoint: cannot read {path}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
