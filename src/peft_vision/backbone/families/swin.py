"""This module is the families of timm's SwinTransformer (Liu et al., 2021, arXiv:2103.14030), and of SwinTransformerV2
and SwinTransformerV2Cr (Liu et al., 2021, arXiv:2111.09883); `windows.py` has their layers.

Four groups of layers have widths and grids of their own: patches are merged 2 x 2 before the second to fourth.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

from timm.layers import PatchEmbed
from timm.models import swin_transformer as swin
from timm.models import swin_transformer_v2 as swin_v2
from timm.models import swin_transformer_v2_cr as swin_v2_cr
from torch import Tensor, nn

from peft_vision.backbone.families.grouped import GroupedTrunk
from peft_vision.backbone.families.trunk import norms_last, strangers, unknown_parts
from peft_vision.backbone.families.windows import SwinLayer, SwinV2CrLayer, SwinV2Layer
from peft_vision.backbone.stage import Need, Site, Stage, Tap, site

_THIRDS = tuple(enumerate("qkv"))


class SwinTrunk(GroupedTrunk):
    family = "swin"
    builds = swin.SwinTransformer
    lacks: ClassVar[Mapping[Need, str]] = {
        "contexts": "has windows, not one context that a query could see; head2toe reads every layer of it"
    }
    groups = "layers"
    block = swin.SwinTransformerBlock
    of_model = ("patch_embed", "layers", "norm", "head")
    of_block = ("norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2")
    _of_attention = ("qkv", "attn_drop", "proj", "proj_drop", "softmax", "relative_position_bias_table")
    _attention: ClassVar[type[nn.Module]] = swin.WindowAttention
    _patches: ClassVar[type[nn.Module]] = PatchEmbed
    _layer: ClassVar[type[SwinLayer]] = SwinLayer

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        reason = (
            strangers("it embeds patches with", [model.patch_embed], (cls._patches,))
            or super().misfit(model)
            or strangers("its attention is", attention := [b.attn for b in cls.blocks_of(model)], (cls._attention,))
            or unknown_parts("its attention has", attention, cls._of_attention)
        )
        if reason is None and model.dynamic_img_size:
            return (
                "it cuts windows anew for every picture (dynamic_img_size); leave that out, backbone.img_size is enough"
            )
        return reason

    @classmethod
    def resize(cls, model: nn.Module, size: tuple[int, int]) -> None:
        """Keep the windows as they are: only their number changes."""
        model.set_input_size(img_size=size, window_size=model._ref_window_sizes)

    def layer(self, block: nn.Module, smaller: nn.Module | None, group: nn.Module) -> SwinLayer:
        return self._layer(block, smaller, self._grid(block), self._entering(group))

    def adopt(self) -> None:
        super().adopt()
        self.layers[-1].rows = math.prod(self.layers[-1].grid)

    @property
    def patch_size(self) -> tuple[int, int]:
        return tuple(self.model.patch_embed.patch_size)

    @property
    def final_tap(self) -> Tap:
        return Tap("norm", "output", self.model.num_features)

    def token_shape(self, depth: int, image_size: tuple[int, int]) -> tuple[int, ...]:
        stage = self.stages[max(depth - 1, 0)]
        return (math.prod(stage.grid), stage.width)

    def pool_added(self) -> None:
        self.layers[-1].rows = None

    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to tokens (B, N, D)."""
        return self.model.patch_embed(images).flatten(1, 2)

    def pool(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to features: the pooling reads them as a grid of one row."""
        return self.model.head(self._normed(tokens).unsqueeze(1), pre_logits=True)

    def _normed(self, tokens: Tensor) -> Tensor:
        """Return what leaves the last stage, (B, N, D), behind the final norm."""
        return self.model.norm(tokens)

    def grid(self, tokens: Tensor, layer: int) -> Tensor:
        stage = self.stages[layer]
        patches = tokens[:, : math.prod(stage.grid)]
        if layer == len(self.stages) - 1:
            patches = self._normed(patches)
        return patches.mT.unflatten(2, stage.grid)

    def grid_shape(self, layer: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
        return (self.stages[layer].width, *self.stages[layer].grid)

    def behind(self) -> list[nn.Module]:
        return [self.model.norm, self.model.head]

    @property
    def stem_operations(self) -> tuple[str, ...]:
        normed = any(True for _ in self.model.patch_embed.norm.parameters())
        return ("patch_embed.proj", "patch_embed.norm") if normed else ("patch_embed.proj",)

    @property
    def end_operations(self) -> tuple[str, ...]:
        return ("norm",)

    def _grid(self, block: nn.Module) -> tuple[int, int]:
        """Return rows and columns of the patches of a block of timm's."""
        return tuple(block.input_resolution)

    def _entering(self, group: nn.Module) -> tuple[int, int]:
        """Return rows and columns of the patches that enter a group."""
        return tuple(group.input_resolution)

    def _stage(self, group: str, index: int, before: tuple[nn.Module, ...]) -> Stage:
        path = f"{group}.blocks.{index}"
        block = self.model.get_submodule(path)
        sites: dict[str, tuple[Site, ...]] = {
            name: (site(self.model, f"{path}.attn.qkv", first=first, of=3),) for first, name in _THIRDS
        }
        for name, place in {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}.items():
            sites[name] = (site(self.model, f"{path}.{place}"),)
        width = block.attn.qkv.in_features
        taps = (
            Tap(f"{path}.attn.qkv", "input", width),
            Tap(f"{path}.attn.proj", "output", width),
            Tap(f"{path}.mlp.fc2", "input", block.mlp.fc2.in_features),
            Tap(f"{path}.mlp", "output", width),
        )
        return Stage(
            module=block,
            width=width,
            grid=block.grid if isinstance(block, SwinLayer) else self._grid(block),
            num_prefix=0,
            sites=sites,
            operations=(*(f"{group}.downsample.{name}" for name in self._merges() if before), *self._operations(path)),
            taps=taps,
            before=before,
        )

    def _merges(self) -> tuple[str, ...]:
        """Return the modules of the merging of patches in the order of computation."""
        return ("norm", "reduction")

    def _operations(self, path: str) -> tuple[str, ...]:
        """Return the paths of the norms and linear layers of a block in the order of computation."""
        return tuple(f"{path}.{name}" for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"))


class SwinV2Trunk(SwinTrunk):
    family = "swin_v2"
    builds = swin_v2.SwinTransformerV2
    block = swin_v2.SwinTransformerV2Block
    _of_attention = (
        *("qkv", "q_bias", "v_bias", "attn_drop", "proj", "proj_drop", "softmax"),
        *("logit_scale", "cpb_mlp"),
    )
    _attention = swin_v2.WindowAttention
    _layer = SwinV2Layer

    def _merges(self) -> tuple[str, ...]:
        return ("reduction", "norm")

    def _operations(self, path: str) -> tuple[str, ...]:
        return norms_last(super()._operations(path))


class SwinV2CrTrunk(SwinV2Trunk):
    """timm's other Swin-V2, by Christoph Reich: biases from distances by an MLP without a sigmoid, and a norm of the
    stream behind the last block of all groups or of each."""

    family = "swin_v2_cr"
    builds = swin_v2_cr.SwinTransformerV2Cr
    groups = "stages"
    block = swin_v2_cr.SwinTransformerV2CrBlock
    of_model = ("patch_embed", "stages", "head")
    of_block = (*SwinTrunk.of_block, "norm3")
    _of_attention = ("qkv", "attn_drop", "proj", "proj_drop", "logit_scale", "meta_mlp")
    _attention = swin_v2_cr.WindowMultiHeadAttention
    _patches = swin_v2_cr.PatchEmbed
    _layer = SwinV2CrLayer

    @property
    def final_tap(self) -> None:
        return None  # the last block ends with a norm

    def stem(self, images: Tensor) -> Tensor:
        return self.model.patch_embed(images).flatten(2).mT

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.head(tokens.mT.unsqueeze(2), pre_logits=True)

    def _normed(self, tokens: Tensor) -> Tensor:
        return tokens  # its last block ends with a norm

    def behind(self) -> list[nn.Module]:
        return [self.model.head]

    @property
    def end_operations(self) -> tuple[str, ...]:
        return ()

    def _grid(self, block: nn.Module) -> tuple[int, int]:
        return tuple(block.feat_size)

    def _entering(self, group: nn.Module) -> tuple[int, int]:
        groups = list(self.model.stages)
        return tuple(groups[max(0, groups.index(group) - 1)].feat_size)

    def _merges(self) -> tuple[str, ...]:
        return ("norm", "reduction")

    def _operations(self, path: str) -> tuple[str, ...]:
        ends = any(True for _ in self.model.get_submodule(f"{path}.norm3").parameters())
        return (*super()._operations(path), *([f"{path}.norm3"] if ends else []))
