"""This module finds the family of a model: the first one whose timm class builds it, if nothing about it is unknown.
Any other timm image model is of the family that knows nothing of tokens."""

from torch import nn

from peft_vision.backbone.families.any import AnyTrunk
from peft_vision.backbone.families.beit import BeitTrunk
from peft_vision.backbone.families.convnext import ConvNeXtTrunk
from peft_vision.backbone.families.eva import EvaTrunk
from peft_vision.backbone.families.relative import RelativeTrunk
from peft_vision.backbone.families.swin import SwinTrunk, SwinV2CrTrunk, SwinV2Trunk
from peft_vision.backbone.families.trunk import Trunk
from peft_vision.backbone.families.vit import DistilledTrunk, ViTTrunk
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import one_size, size_in_words

FAMILIES: tuple[type[Trunk], ...] = (
    ViTTrunk,
    DistilledTrunk,
    EvaTrunk,
    BeitTrunk,
    RelativeTrunk,
    SwinTrunk,
    SwinV2Trunk,
    SwinV2CrTrunk,
    ConvNeXtTrunk,
)


def trunk_of(model: nn.Module) -> Trunk:
    """Return the trunk of a timm model. Raise ConfigError with name and reason where no family matches."""
    family = next((family for family in FAMILIES if type(model) is family.builds), None)
    reason = None if family is None else family.misfit(model)
    if family is not None and reason is None:
        return family(model)
    trunk = AnyTrunk(model, reason)
    if trunk.unusable is not None:
        raise ConfigError(f"backbone: no family matches {architecture(model)}: {trunk.unusable}")
    return trunk


def family_of(model: nn.Module) -> type[Trunk]:
    """Return the family of a timm model. Raise ConfigError with name and reason where none matches."""
    return type(trunk_of(model))


def refuse_unusual(model: nn.Module) -> None:
    """Raise ConfigError with name and reason where no family matches the model."""
    trunk_of(model)


def refuse_size(trunk: Trunk, size: tuple[int, int]) -> None:
    """Raise ConfigError with name and reason where the model takes no images of this height and width."""
    if (reason := trunk.misfit_size(size)) is not None:
        named = f"{architecture(trunk.model)} takes no pictures of {size_in_words(one_size(*size))}"
        raise ConfigError(f"backbone.img_size: {named}: {reason}")


def architecture(model: nn.Module) -> str:
    """Return timm's architecture name of `model`, or the name of its class where it was built directly."""
    return getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
