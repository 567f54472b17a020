"""This module stores an optimizer's moments between steps: in fp32, or block-wise in 8 bit (Dettmers et al., 2022,
arXiv:2110.02861), by the optional library bitsandbytes.

Eight bits are only the storage format: a step converts them to fp32, updates them, and rounds them again, which is what
bitsandbytes' own optimizers compute.
"""

import functools
import importlib
import importlib.util
import logging
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_BLOCK = 256  # entries that share a scale
_LEAST = 4096  # smaller tensors stay in fp32, as in bitsandbytes: the scales would cost more than they save
_UNSIGNED = frozenset({"exp_avg_sq"})  # moments that are never negative


def is_installed() -> bool:
    """Return whether the library for 8 bit is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def new(names: tuple[str, ...], like: Tensor, *, bits: int) -> dict[str, Tensor]:
    """Return a zero tensor of the shape of `like` under each name, as it is stored."""
    return stored({name: torch.zeros_like(like) for name in names}, bits=bits)


def stored(moments: dict[str, Tensor], *, bits: int) -> dict[str, Tensor]:
    """Return fp32 moments as they are stored: under their names, with `<name>_scales` for those in 8 bit."""
    kept: dict[str, Tensor] = {}
    for name, moment in moments.items():
        if bits == 32 or moment.numel() < _LEAST:
            kept[name] = moment
            continue
        kept[name], state = _library().quantize_blockwise(
            A=moment.contiguous(), code=_code(name, moment.device), blocksize=_BLOCK
        )
        kept[f"{name}_scales"] = state.absmax
    return kept


def read(state: dict[str, Any], names: tuple[str, ...]) -> list[Tensor]:
    """Return the moments in fp32; for those that are stored in fp32 the stored tensor itself."""
    return [
        _library().dequantize_blockwise(
            A=state[name],
            absmax=state[f"{name}_scales"],
            code=_code(name, state[name].device),
            blocksize=_BLOCK,
        )
        if state[name].dtype == torch.uint8
        else state[name]
        for name in names
    ]


@functools.cache
def _library() -> ModuleType:
    """Return the library; its import logs on every CPU that an unused part is missing, which is silenced."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes.functional")
    finally:
        logger.setLevel(level)


@functools.cache
def _code(name: str, device: torch.device) -> Tensor:
    """Return the 256 values that 8 bit encode, from -1 or 0 to 1."""
    return _library().create_dynamic_map(signed=name not in _UNSIGNED).to(device)
