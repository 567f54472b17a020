"""This module finds the family of a model: the first one whose timm class builds it, if nothing about it is unknown."""

from torch import nn

from peft_vision.backbone.families.beit import BeitTrunk
from peft_vision.backbone.families.eva import EvaTrunk
from peft_vision.backbone.families.relative import RelativeTrunk
from peft_vision.backbone.families.swin import SwinTrunk, SwinV2Trunk
from peft_vision.backbone.families.trunk import Trunk
from peft_vision.backbone.families.vit import DistilledTrunk, ViTTrunk
from peft_vision.core.config import ConfigError

FAMILIES: tuple[type[Trunk], ...] = (
    ViTTrunk,
    DistilledTrunk,
    EvaTrunk,
    BeitTrunk,
    RelativeTrunk,
    SwinTrunk,
    SwinV2Trunk,
)


def trunk_of(model: nn.Module) -> Trunk:
    """Return the trunk of a timm model. Raise ConfigError with name and reason where no family matches."""
    return family_of(model)(model)


def family_of(model: nn.Module) -> type[Trunk]:
    """Return the family of a timm model. Raise ConfigError with name and reason where none matches."""
    family, reason = _matched(model)
    if reason is not None:
        raise ConfigError(f"backbone: no family matches {architecture(model)}: {reason}")
    return family


def refuse_unusual(model: nn.Module) -> None:
    """Raise ConfigError with name and reason where no family matches the model."""
    trunk_of(model)


def architecture(model: nn.Module) -> str:
    """Return timm's architecture name of `model`, or the name of its class where it was built directly."""
    return getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__


def _matched(model: nn.Module) -> tuple[type[Trunk] | None, str | None]:
    """Return the family, and why it does not match after all."""
    for family in FAMILIES:
        if type(model) is family.builds:
            return family, family.misfit(model)
    known = ", ".join(family.builds.__name__ for family in FAMILIES)
    return None, f"timm builds it as {type(model).__name__}, which is not {known}"
