"""How an optimizer's moments are kept between steps: in fp32, or in 8 bit in blocks (Dettmers et al., 2022,
arXiv:2110.02861), by the library bitsandbytes, which is optional.

Eight bits are only how they lie in memory: a step reads them into fp32, moves them, and rounds them again, which is
what bitsandbytes' own optimizers compute.
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
_LEAST = 4096  # entries below which a tensor stays in fp32, as with bitsandbytes: its scales would not pay
_UNSIGNED = frozenset({"exp_avg_sq"})  # moments that are never negative


def is_installed() -> bool:
    """The library for 8 bit."""
    return importlib.util.find_spec("bitsandbytes") is not None


def new(names: tuple[str, ...], like: Tensor, *, bits: int) -> dict[str, Tensor]:
    """Zeros, one of the shape of `like` under each name."""
    return stored({name: torch.zeros_like(like) for name in names}, bits=bits)


def stored(moments: dict[str, Tensor], *, bits: int) -> dict[str, Tensor]:
    """fp32 as it is kept: under its own name, with `<name>_scales` where that is in 8 bit."""
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
    """fp32; of what is kept in fp32 the tensor itself."""
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
    """Its import says on every CPU that a part of it we do not use is not there."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes.functional")
    finally:
        logger.setLevel(level)


@functools.cache
def _code(name: str, device: torch.device) -> Tensor:
    """The 256 values that 8 bit stand for, from -1 or 0 to 1."""
    return _library().create_dynamic_map(signed=name not in _UNSIGNED).to(device)
