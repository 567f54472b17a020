"""This module is the family of plain Vision Transformers (Dosovitskiy et al., 2020, arXiv:2010.11929): ViT, DeiT, MAE,
CLIP, SigLIP, DINOv2, AIMv2. Query and key norms, gates, LayerScale, registers and all of timm's poolings are
honoured."""

from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from peft_vision.backbone.families.token_trunk import TokenTrunk
from peft_vision.backbone.families.trunk import DROPS_PATCHES


class ViTTrunk(TokenTrunk):
    family = "vit"
    builds = VisionTransformer
    blocks = (Block,)
    attentions = (Attention,)
    of_block = ("ls1", "ls2")
    of_attention = ("q_norm", "k_norm", "norm", "gate")

    @property
    def mark(self) -> dict[str, str]:
        """Return nothing: stores that were filled before there were families stay readable."""
        return {}

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return why not every block of `model` is attention and MLP over all tokens, or None."""
        if "radio" in (getattr(model, "pretrained_cfg", {}).get("architecture") or ""):
            return "RADIO resamples its position embeddings by rules of its own"
        if isinstance(model.patch_drop, nn.Identity):
            return super().misfit(model)
        return super().misfit(model) or DROPS_PATCHES


class DistilledTrunk(ViTTrunk):
    """A DeiT with a distillation token behind its class token (Touvron et al., 2020, arXiv:2012.12877): its features
    are the mean of the two."""

    family = "distilled_vit"
    builds = VisionTransformerDistilled
    of_model = ("dist_token", "head_dist")

    @property
    def num_read(self) -> int:
        return 2
