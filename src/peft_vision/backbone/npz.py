"""This module reads Google's ViT files (gs://vit_models/*.npz), with Flax names and layouts, as a state dict with those
of timm."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
