"""This module loads weights from a file into a timm model: safetensors, Google's npz or a torch file, completely or not
at all.

What is released around a backbone is left out: the dicts and prefixes of trainers, the other branch of a pretext task
(MoCo, DINO, iBOT), decoders, projections and classifiers. The `checkpoint_filter_fn` of the model's module in timm
converts names (OpenAI CLIP, DINOv2, ...) and resamples position embeddings and patches; after that every tensor must
fit.

    MoCo v1, v2     module.encoder_q.*
    MoCo v3         module.base_encoder.*, beside module.momentum_encoder.* and module.predictor.*
    MAE             model: *, decoder_*, mask_token
    DINO, iBOT      teacher or student: [module.]backbone.*, beside [module.]head.*; or the backbone alone
"""

import argparse
import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from peft_vision.backbone.conversion import converted, read_npz
from peft_vision.core.config import ConfigError
from peft_vision.core.output import first_line
from peft_vision.core.preprocessing import Preprocessing

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "encoder")  # by preference
_PREFIXES = re.compile(r"^(_orig_mod\.|module\.|backbone\.|encoder\.vit\.)+")  # compile, DDP, DINO, our own
_BRANCHES = ("base_encoder.", "encoder_q.", "momentum_encoder.")  # MoCo's, by preference: papers evaluate the first
_LEFT_OUT = ("head.", "head_dist.", "fc.", "decoder_", "mask_token", "masked_embed", "projection_head.", "prototypes.")
_LEFT_OUT += ("AuxLogits.",)  # a second classifier of torchvision's Inception v3, for its training
_UNREADABLE = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError)
_HEADS_OF_MOCO_SMALL = 12
_NAMED = 3  # tensors of each kind that an error names


def load_weights(vit: nn.Module, path: Path, *, in_chans: int = 3, from_chans: int = 3) -> None:
    """Fill `vit`, whose num_classes is 0, from the file; fp16 and bf16 are converted to fp32. Weights for images of
    `from_chans` channels are adapted to `in_chans` by timm's rule. Raise ConfigError where the file cannot be read, or
    a tensor is missing, unexpected or of another shape."""
    held = _read(path)
    _require_heads(held, vit, path)
    state = _stripped(held, path)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of how timm resamples tables
            state = converted(state, vit)
    except (RuntimeError, ValueError, AssertionError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(f"{_title(vit, path)}: {first_line(error)}") from error
    expected = vit.state_dict()
    left_out = _LEFT_OUT if getattr(vit, "attn_pool", None) is not None else (*_LEFT_OUT, "attn_pool.")
    left_out += tuple(f"{name}." for name in _listed_names(vit, "classifier"))
    state = {
        name: tensor.float() for name, tensor in state.items() if name in expected or not name.startswith(left_out)
    }
    state = _moved_norm(state, expected)
    if in_chans != from_chans:
        state = _adapted(state, expected, _listed_names(vit, "first_conv"), in_chans=in_chans, from_chans=from_chans)
    counters = {name: tensor for name, tensor in expected.items() if name.endswith(".num_batches_tracked")}
    state = {**counters, **state}  # old files of batch norms lack them, and nothing reads them
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


def weights_hash(vit: nn.Module) -> str:
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
    """Return the tensors by name, without the dicts that trainers wrap around them, the prefixes of their names and
    the branches of a pretext task that are not the backbone."""
    while isinstance(state, Mapping) and (wrapper := next((w for w in _WRAPPERS if w in state), None)):
        state = state[wrapper]
    if not isinstance(state, Mapping):
        raise ConfigError(f"backbone.checkpoint: {path} holds no state dict but a {type(state).__name__}")
    if strangers := [str(name) for name, value in state.items() if not isinstance(value, Tensor)]:
        held = _listed("entries", strangers)
        raise ConfigError(f"backbone.checkpoint: {path} holds no state dict but {held}")
    named = {_PREFIXES.sub("", str(name)): tensor for name, tensor in state.items()}
    branch = next((branch for branch in _BRANCHES if any(name.startswith(branch) for name in named)), "")
    return {name.removeprefix(branch): tensor for name, tensor in named.items() if name.startswith(branch)}


def _adapted(
    state: dict[str, Tensor], expected: dict[str, Tensor], names: list[str], *, in_chans: int, from_chans: int
) -> dict[str, Tensor]:
    """Return the state with the first convolutions for `in_chans` channels: summed for one channel, else repeated and
    scaled. A weight of any other form stays as it is, for the caller to refuse."""
    found = dict(state)
    for name in (f"{name}.weight" for name in names):
        weight = found.get(name)
        if weight is None or name not in expected or weight.shape == expected[name].shape:
            continue
        try:
            found[name] = adapt_input_conv(in_chans, weight, base_chans=from_chans)
        except (NotImplementedError, AssertionError):
            continue
    return found


def _listed_names(vit: nn.Module, key: str) -> list[str]:
    """Return the names of modules that timm's record of the weights has for `key`: one, several or none."""
    names = getattr(vit, "pretrained_cfg", {}).get(key) or ()
    return [names] if isinstance(names, str) else list(names)


def _require_heads(held: Any, vit: nn.Module, path: Path) -> None:
    """Raise ConfigError for MoCo v3's ViT-S on a model with other heads than its 12: no shape shows their number."""
    if not isinstance(held, Mapping) or held.get("arch") != "vit_small" or not hasattr(vit, "blocks"):
        return
    heads = vit.blocks[0].attn.num_heads
    if heads != _HEADS_OF_MOCO_SMALL:
        raise ConfigError(
            f"{_title(vit, path)}: MoCo v3's ViT-S has {_HEADS_OF_MOCO_SMALL} heads, and this one {heads}; "
            f"backbone.architecture={{num_heads: {_HEADS_OF_MOCO_SMALL}}} fits"
        )


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
    own = [name for name in state if name.endswith(("weight", "bias"))]
    if own and not any(name in expected for name in own):
        raise ConfigError(
            f"{title}: none of its tensors is one of this model; it holds {', '.join(own[:_NAMED])}, ... "
            "(backbone.name says which model)"
        )
    if found:
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in found.items())
        hint = _hint(state, expected)
        raise ConfigError(f"{title}: {counts}{hint}\n{'; '.join(map(_listed, found, found.values()))}")


def _hint(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Return what to set where the shapes of a plain MLP show that the weights are of a packed gated one, where the
    first weights show another number of channels, or where positions alone are of images of another size and timm has
    no way to resample them; else an empty string."""
    outer, inner = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if outer is not None and inner is not None and outer.shape[0] == 2 * inner.shape[1]:
        own = expected.get("blocks.0.mlp.fc2.weight")
        if own is not None and own.shape[1] != inner.shape[1]:
            return "; their MLP is gated: backbone.architecture={mlp_layer: SwiGLUPacked, act_layer: silu} may fit"
    first = "patch_embed.proj.weight"
    if first in state and first in expected and state[first].shape[1] != expected[first].shape[1]:
        return f"; they are for images of {state[first].shape[1]} channels (backbone.in_chans)"
    differing = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if differing and all(name.endswith("pos_embed") for name in differing):
        return (
            "; timm does not resample the positions of this class: backbone.img_size=null keeps the weights' own size"
        )
    return ""


def _listed(kind: str, names: list[str]) -> str:
    return f"{kind}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"


def _title(vit: nn.Module, path: Path) -> str:
    return f"backbone.checkpoint: {path} does not fit {vit.pretrained_cfg['architecture']}"


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"backbone.checkpoint: cannot read {path}: {first_line(error)}")
