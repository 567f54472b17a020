"""This package fine-tunes Vision Transformers parameter-efficiently: `adapt`, `save`, `load`, `merged` and
`AdapterSet` are its library, `peft-vision` is its command."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft_vision.library import AdapterSet, adapt, load, merged, save

__version__ = "0.1.0"
__all__ = ["AdapterSet", "adapt", "load", "merged", "save"]


def __getattr__(name: str) -> Any:
    # torch is imported at first use, so that `peft-vision --help` need not wait for it
    if name in __all__:
        from peft_vision import library

        return getattr(library, name)
    raise AttributeError(f"module 'peft_vision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
