"""Small random models of timm's other classes: convolutions, mixers and hybrids, with and without batch norms."""

import copy
from functools import cache, partial

import timm
import torch
from timm.models.byobnet import ByoBlockCfg
from timm.models.metaformer import MetaFormer
from timm.models.mlp_mixer import MlpMixer
from timm.models.regnet import RegNet, RegNetCfg
from torch import nn

_CLIP = tuple(ByoBlockCfg(type="bottle", d=1, c=channels, s=2, gs=0, br=0.25) for channels in (16, 16, 32, 64))
_HYBRID = {"img_size": 64, "embed_dim": (32, 32), "depths": (1, 1), "stem_width": (8, 16)}
_REGNET = RegNetCfg(depth=6, w0=8, wa=8.0, wm=2.0, group_size=8, stem_width=8, se_ratio=0.25)

ANY = {
    "ResNet": partial(timm.create_model, "resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 16, 32)),
    "ResNet with bottlenecks": partial(timm.create_model, "test_resnet"),
    "CLIP's ResNet": partial(timm.create_model, "resnet50_clip", img_size=64, blocks=_CLIP, stem_chs=(8, 8, 16)),
    "RegNet": partial(RegNet, _REGNET),
    "EfficientNet": partial(timm.create_model, "test_efficientnet"),
    "EfficientNet with layer norms": partial(timm.create_model, "test_efficientnet_ln"),
    "without norms": partial(timm.create_model, "test_nfnet", depths=(1, 1), channels=(32, 64)),
    "Hiera": partial(
        timm.create_model, "hiera_tiny_224", img_size=(64, 64), embed_dim=8, stages=(1, 1, 1, 1), num_heads=1
    ),
    "MetaFormer": partial(MetaFormer, depths=(1, 1, 1, 1), dims=(8, 16, 16, 32)),
    "mixer": partial(MlpMixer, img_size=64, patch_size=16, num_blocks=2, embed_dim=16),
    "MambaOut": partial(timm.create_model, "test_mambaout", depths=(1, 1, 1, 1), dims=(8, 16, 16, 32)),
    "MaxViT": partial(
        timm.create_model, "test_maxvit", block_type=("M", "M"), transformer_partition_ratio=8, **_HYBRID
    ),
    "CoAtNet": partial(timm.create_model, "test_coatnet", block_type=("C", "T"), **_HYBRID),
}
FIXED = ("CLIP's ResNet", "Hiera", "mixer", "MaxViT", "CoAtNet")  # which take images of one size


def small_any(variant: str, *, recorded: bool = False) -> nn.Module:
    """The model of a variant, with random weights and statistics that are always the same and none at a constant. It is
    said to take images of 64 px; `recorded`: of the size of timm's own record, which it was not made for, so that each
    module on top of it tries other sizes first."""
    return copy.deepcopy(_made(variant, recorded))


@cache
def _made(variant: str, recorded: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = ANY[variant](num_classes=0)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.05 * torch.randn_like(tensor)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    if not recorded:
        model.pretrained_cfg = {**getattr(model, "pretrained_cfg", {}), "input_size": (3, 64, 64)}
    return model
