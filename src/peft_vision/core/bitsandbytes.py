"""This module imports bitsandbytes, the optional library for numbers of 8 and of 4 bit, where it is needed."""

import functools
import importlib
import importlib.util
import logging
from types import ModuleType

from torch import Tensor, device

INSTALL = "pip install 'peft-vision[bits8]'"


def is_installed() -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


@functools.cache
def library() -> ModuleType:
    """Return the functions of the library; its import logs on every CPU that an unused part is missing, which is
    silenced."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes.functional")
    finally:
        logger.setLevel(level)


@functools.cache
def dynamic_code(place: device, *, signed: bool) -> Tensor:
    """Return the 256 values that 8 bit encode, from -1 or 0 to 1, on the device `place`."""
    return library().create_dynamic_map(signed=signed).to(place)
