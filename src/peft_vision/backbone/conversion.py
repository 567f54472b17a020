"""This module converts weights of other names and layouts to those of a timm model: Google's npz, and what the module
of timm that builds the model knows of the files it is released in.

timm gives each model a function for this when it builds it, and keeps no note of it; `converted` finds the same one.
"""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

_FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")  # timm's names for the same thing
_OF_CLASSES = {"Encoder": "checkpoint_filter_fn_encoder", "Classifier": "checkpoint_filter_fn_classifier"}
"""The names in modules that build encoders of language models, and classifiers around them."""

_NAMES = (
    (r"^opt/target/", ""),
    (r"^cls$", "cls_token"),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj/"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"LayerNorm_0/", "norm1/"),
    (r"LayerNorm_2/", "norm2/"),
    (r"MultiHeadDotProductAttention_1/out/", "attn.proj/"),
    (r"MultiHeadDotProductAttention_1/", "attn.qkv/"),
    (r"MlpBlock_3/Dense_0/", "mlp.fc1/"),
    (r"MlpBlock_3/Dense_1/", "mlp.fc2/"),
    (r"/(kernel|scale)$", ".weight"),
    (r"/bias$", ".bias"),
)


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the file by timm's names. Names that Google's ViT does not have stay as they are, for the
    caller to refuse."""
    # numpy does not close a file that it opened itself if the file is not an archive
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {_renamed(name): archive[name] for name in archive.files}
    state = {name: _transposed(name, array) for name, array in arrays.items()}
    for query in [name for name in state if ".attn.qkv/query." in name]:
        parts = [state.pop(query.replace("/query.", f"/{part}.")) for part in ("query", "key", "value")]
        state[query.replace("/query.", ".")] = torch.cat(parts)
    return state


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _transposed(name: str, array: np.ndarray) -> Tensor:
    """Return the array in torch's layout. Flax puts outputs last and keeps heads apart: (D, heads, head width) before
    attention, (heads, head width, D) after it."""
    tensor = torch.from_numpy(array)
    if name == "patch_embed.proj.weight":
        return tensor.permute(3, 2, 0, 1)
    if name.endswith("attn.proj.weight"):
        return tensor.flatten(0, 1).T
    if ".attn.qkv/" in name:
        return tensor.flatten(1).T if name.endswith(".weight") else tensor.flatten()
    return tensor.T if name.endswith(".weight") and tensor.ndim == 2 else tensor


def converted(state: dict[str, Tensor], vit: nn.Module) -> dict[str, Tensor]:
    """Return the state by the names and in the shapes of `vit`, as timm converts it where it loads such weights."""
    found, options = _filter_of(vit)
    if found is None:
        return state
    if isinstance(vit, VisionTransformer) and "blocks.0.gamma_1" in state:  # the scales of layers of DeiT-III and iBOT
        options["adapt_layer_scale"] = True
    takes_model = len(inspect.signature(found).parameters) > 1
    return found(state, vit, **options) if takes_model else found(state)


def _filter_of(vit: nn.Module) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """Return the function of timm that converts weights of this model, or None, and how it resamples positions: those
    of FlexiViT and RADIO were trained with bilinear resampling."""
    built_as = (getattr(vit, "pretrained_cfg", {}).get("architecture") or "").partition(".")[0]
    makers = [timm.model_entrypoint(built_as).__module__] if timm.is_model(built_as) else []
    names = [name for ending, name in _OF_CLASSES.items() if type(vit).__name__.endswith(ending)]
    modules = [vars(sys.modules[module]) for module in (*makers, type(vit).__module__)]
    found = next((module[name] for module in modules for name in (*names, *_FILTERS) if name in module), None)
    if not isinstance(vit, VisionTransformer) or not any(kind in built_as for kind in ("flexi", "radio")):
        return found, {}
    options: dict[str, Any] = {"interpolation": "bilinear", "antialias": False}
    if "radio" in built_as:
        aligned = getattr(sys.modules[VisionTransformer.__module__], "_RADIO_ALIGN_CORNERS", ())
        options["align_corners"] = any(kind in built_as for kind in aligned)
    return found, options
