"""This module is what authors of extensions import: the decorator of a component, its errors, and the marks of its
fields."""

from peft_vision.core.config import (
    FILE,
    FUNCTION,
    INCIDENTAL,
    NOT_HASHED,
    ConfigError,
    HashDefault,
    IdleWith,
    Neutral,
    OnlyWith,
    component,
)

__all__ = [
    "FILE",
    "FUNCTION",
    "INCIDENTAL",
    "NOT_HASHED",
    "ConfigError",
    "HashDefault",
    "IdleWith",
    "Neutral",
    "OnlyWith",
    "component",
]
