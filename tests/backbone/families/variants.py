"""Small random models of every variant of a family, by timm's own architectures."""

import copy
from functools import cache

import timm
import torch
from timm.models.vision_transformer_relpos import ResPostRelPosBlock
from torch import nn

_EVA = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_DINOV3 = ("vit_small_patch16_dinov3", _EVA)
_ROPE = ("vit_small_patch16_rope_224", _EVA)


def _like(base: tuple[str, dict], **options: object) -> tuple[str, dict]:
    return base[0], {**base[1], **options}


EVA = {
    "DINOv3": _DINOV3,
    "DINOv3 with biases": ("vit_small_patch16_dinov3_qkvb", _EVA),
    "DINOv3 plus (SwiGLU)": ("vit_small_plus_patch16_dinov3", _EVA),
    "EVA": ("eva_giant_patch14_224", _EVA),
    "EVA-02": ("eva02_tiny_patch14_224", _EVA),
    "EVA-02 base (normed SwiGLU and attention)": ("eva02_base_patch14_224", _EVA),
    "EVA-02 enormous (post-norm)": ("eva02_enormous_patch14_clip_224", _EVA),
    "post-norm, rotary, apart": (
        "eva02_enormous_patch14_clip_224",
        {**_EVA, "use_rot_pos_emb": True, "qkv_fused": False, "swiglu_mlp": True},
    ),
    "PE core": ("vit_pe_core_tiny_patch16_384", _EVA),
    "PE spatial": ("vit_pe_spatial_tiny_patch16_512", {**_EVA, "global_pool": "avg"}),
    "ViT-RoPE": _ROPE,
    "ViT-RoPE with positions": ("vit_small_patch16_rope_ape_224", _EVA),
    "mixed rotations": ("vit_small_patch16_rope_mixed_224", _EVA),
    "mixed rotations with positions": ("vit_small_patch16_rope_mixed_ape_224", _EVA),
    "rotary with a register, pooled": ("vit_medium_patch16_rope_reg1_gap_256", _EVA),
    "Sapiens-2": ("vit_base_patch16_sapiens2", {**_EVA, "num_kv_heads": 2}),
    "grouped keys and values": ("vit_base_patch16_sapiens2", {**_EVA, "num_heads": 4, "num_kv_heads": 2}),
    "mrope": _like(_DINOV3, rope_type="mrope", rope_mrope_section=(2, 3, 3)),
    "query and key norms": _like(_ROPE, qk_norm=True),
    "separate addition of biases": _like(("eva_giant_patch14_224", _EVA), qkv_bias=True, use_rot_pos_emb=True),
    "half layout": _like(_ROPE, rope_rotate_half=True, rope_type="cat"),
    "maximum pooling": _like(_DINOV3, global_pool="max"),
    "attention pooling": _like(_DINOV3, global_pool="map"),
    "average pooling without a norm behind it": _like(_DINOV3, global_pool="avg", use_fc_norm=False),
    "no class token": _like(_DINOV3, class_token=False, global_pool="avg"),
    "any size": _like(_DINOV3, dynamic_img_size=True),
}
_BEIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
BEIT = {
    "BEiT": ("beit_base_patch16_224", _BEIT),
    "BEiT v2": ("beitv2_base_patch16_224", _BEIT),
    "BEiT, shared table": ("beit_base_patch16_224", {**_BEIT, "use_shared_rel_pos_bias": True}),
    "BEiT, shared table alone": (
        "beit_base_patch16_224",
        {**_BEIT, "use_shared_rel_pos_bias": True, "use_rel_pos_bias": False, "use_abs_pos_emb": True},
    ),
    "BEiT, class token, SwiGLU, no biases": (
        "beit_base_patch16_224",
        {**_BEIT, "global_pool": "token", "swiglu_mlp": True, "scale_mlp": True, "qkv_bias": False},
    ),
}
RELATIVE = {
    "relative": ("vit_relpos_small_patch16_224", _BEIT),
    "relative, class token": ("vit_relpos_base_patch16_cls_224", _BEIT),
    "relative, post-norm": ("vit_relpos_base_patch16_clsgap_224", {**_BEIT, "block_fn": ResPostRelPosBlock}),
    "relative, shared": ("vit_relpos_base_patch32_plus_rpn_256", {**_BEIT, "shared_rel_pos": True}),
    "relative, Swin's MLP": ("vit_srelpos_small_patch16_224", {**_BEIT, "qk_norm": True}),
}
VIT = {
    "ViT": ("vit_tiny_patch16_224", _BEIT),
    "distilled DeiT": ("deit_tiny_distilled_patch16_224", _BEIT),
}
_SWIN = {
    "img_size": 32,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 1, 2),
    "num_heads": (1, 2, 4),
    "drop_path_rate": 0.0,
}
_TINY = "swin_tiny_patch4_window7_224"
_TINY_V2 = "swinv2_tiny_window8_256"
SWIN = {
    "Swin": (_TINY, _SWIN),
    "Swin, windows of 3 that do not tile": (_TINY, {**_SWIN, "window_size": 3}),
    "Swin, always partitioned, maximum": (
        _TINY,
        {**_SWIN, "always_partition": True, "global_pool": "max", "drop_path_rate": 0.2},
    ),
    "S3, windows by stage, no biases": (
        "swin_s3_tiny_224",
        {**_SWIN, "window_size": (2, 4, 2), "qkv_bias": False, "head_dim": 8},
    ),
    "Swin-V2": (_TINY_V2, {**_SWIN, "window_size": 3}),
    "Swin-V2 of a fine-tuned window, no biases": (
        "swinv2_base_window12to16_192to256",
        {**_SWIN, "qkv_bias": False, "window_size": 2},
    ),
}
_CR = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 1, 2), "num_heads": (1, 2, 4)}
SWIN |= {
    "Swin-V2Cr": ("swinv2_cr_tiny_ns_224", {**_CR, "window_size": 3}),
    "Swin-V2Cr, norms in between": ("swinv2_cr_tiny_224", {**_CR, "extra_norm_period": 1, "drop_path_rate": 0.2}),
}
_CONVNEXT = {"depths": (2, 1, 1, 1), "dims": (16, 32, 48, 64)}
CONVNEXT = {
    "ConvNeXt": ("convnext_tiny", _CONVNEXT),
    "ConvNeXt, 1x1 convolutions": ("convnext_atto", _CONVNEXT),
    "ConvNeXt, norm before pooling": ("convnext_tiny_hnf", _CONVNEXT),
    "ConvNeXt, dilated": ("convnext_tiny", {**_CONVNEXT, "output_stride": 8}),
    "ConvNeXt of CLIP": ("convnext_large_mlp", {**_CONVNEXT, "head_hidden_size": 24}),
    "ConvNeXt, overlapping stem": ("convnext_femto_ols", _CONVNEXT),
    "ConvNeXt, RMS norms": ("convnext_atto_rms", _CONVNEXT),
    "ConvNeXt, simple norms": ("convnext_zepto_rms_ols", _CONVNEXT),
    "ConvNeXt-V2": ("convnextv2_tiny", _CONVNEXT),
    "ConvNeXt-V2, 1x1 convolutions": ("convnextv2_atto", _CONVNEXT),
    "ConvNeXt of DINOv3": ("convnext_tiny", {**_CONVNEXT, "head_norm_first": False, "norm_eps": 1e-5}),
}
TOKENS = {**EVA, **BEIT, **RELATIVE, **VIT}
"""Those whose layers all see the same tokens (B, N, D)."""

VARIANTS = {**TOKENS, **SWIN, **CONVNEXT}


def small(variant: str, **options: object) -> nn.Module:
    """The model of a variant, with random weights that are always the same and nothing left at a constant."""
    if "img_size" not in VARIANTS[variant][1]:  # it takes images of any size
        options.pop("img_size", None)
    return copy.deepcopy(_made(variant, **options))


@cache
def _made(variant: str, **options: object) -> nn.Module:
    name, arguments = VARIANTS[variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model(name, num_classes=0, **{**arguments, **options})
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}  # what a model of any size is told
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def gated(model: nn.Module) -> nn.Module:
    """The model with a gate in each attention, which timm has in its blocks but in no architecture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        for block in model.blocks:
            block.attn.gate = nn.Linear(32, 32)
    return model
