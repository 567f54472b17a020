"""This module is the family of plain Vision Transformers (Dosovitskiy et al., 2020, arXiv:2010.11929): ViT, DeiT, MAE,
CLIP, SigLIP, DINOv2, AIMv2. Query and key norms, gates, LayerScale, registers and all of timm's poolings are
honoured."""

from timm.layers import Attention, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from peft_vision.backbone.families.trunk import TokenTrunk


class ViTTrunk(TokenTrunk):
    family = "vit"
    builds = VisionTransformer

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return why not every block of `model` is attention and MLP over all tokens, or None."""
        if "radio" in (getattr(model, "pretrained_cfg", {}).get("architecture") or ""):
            return "RADIO resamples its position embeddings by rules of its own"
        if type(model.patch_embed) is not PatchEmbed:
            return f"it embeds patches with {type(model.patch_embed).__name__}"
        if blocks := {type(block).__name__ for block in model.blocks if type(block) is not Block}:
            return f"its blocks are {', '.join(blocks)}"
        if attentions := {type(b.attn).__name__ for b in model.blocks if type(b.attn) is not Attention}:
            return f"its attention is {', '.join(attentions)}"
        if not isinstance(model.patch_drop, nn.Identity):
            return "it drops patches (patch_drop_rate), so that the number of tokens changes"
        return None


class DistilledTrunk(ViTTrunk):
    """A DeiT with a distillation token behind its class token (Touvron et al., 2020, arXiv:2012.12877): its features
    are the mean of the two."""

    family = "distilled_vit"
    builds = VisionTransformerDistilled

    @property
    def num_read(self) -> int:
        return 2
