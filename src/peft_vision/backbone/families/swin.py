"""This module is the families of timm's SwinTransformer (Liu et al., 2021, arXiv:2103.14030) and SwinTransformerV2 (Liu
et al., 2021, arXiv:2111.09883); `windows.py` has their layers.

Four groups of layers have widths and grids of their own: patches are merged 2 x 2 before the second to fourth.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from timm.layers import PatchEmbed
from timm.models import swin_transformer as swin
from timm.models import swin_transformer_v2 as swin_v2
from torch import Tensor, nn

from peft_vision.backbone.families.trunk import Trunk, norms_last
from peft_vision.backbone.families.windows import SwinLayer, SwinV2Layer
from peft_vision.backbone.stage import Need, Site, Stage, Tap, site

_THIRDS = tuple(enumerate("qkv"))


class SwinTrunk(Trunk):
    family = "swin"
    builds = swin.SwinTransformer
    lacks: ClassVar[Mapping[Need, str]] = {
        "contexts": "has windows, not one context that a query could see; head2toe reads every layer of it"
    }
    _block: ClassVar[type[nn.Module]] = swin.SwinTransformerBlock
    _attention: ClassVar[type[nn.Module]] = swin.WindowAttention
    _layer: ClassVar[type[SwinLayer]] = SwinLayer

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._stages: tuple[Stage, ...] | None = None

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        if type(model.patch_embed) is not PatchEmbed:
            return f"it embeds patches with {type(model.patch_embed).__name__}"
        blocks = [block for group in model.layers for block in group.blocks]
        if strangers := {type(block).__name__ for block in blocks if type(block) is not cls._block}:
            return f"its blocks are {', '.join(strangers)}"
        if strangers := {type(block.attn).__name__ for block in blocks if type(block.attn) is not cls._attention}:
            return f"its attention is {', '.join(strangers)}"
        if model.dynamic_img_size:
            return (
                "it cuts windows anew for every picture (dynamic_img_size); leave that out, backbone.img_size is enough"
            )
        if model.head.global_pool.is_identity():
            return "it does not pool its tokens"
        return None

    @classmethod
    def resize(cls, model: nn.Module, size: tuple[int, int]) -> None:
        """Keep the windows as they are: only their number changes."""
        model.set_input_size(img_size=size, window_size=model._ref_window_sizes)

    def adopt(self) -> None:
        for group in self.model.layers:
            merging = None if isinstance(group.downsample, nn.Identity) else group.downsample
            for index, block in enumerate(group.blocks):
                group.blocks[index] = self._layer(block, merging if index == 0 else None, tuple(group.input_resolution))
        self._stages = self._described()
        self.layers[-1].rows = math.prod(self.layers[-1].grid)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return [block for group in self.model.layers for block in group.blocks]

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self._stages or self._described()

    @property
    def width(self) -> int:
        return self.model.head.num_features

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
        return self.model.head(self.model.norm(tokens).unsqueeze(1), pre_logits=True)

    @property
    def grid_layers(self) -> tuple[int, ...]:
        """Return the last layer of each of the last four groups."""
        ends = itertools.accumulate(len(group.blocks) for group in self.model.layers)
        return tuple(end - 1 for end in ends)[-4:]

    def grid(self, tokens: Tensor, layer: int) -> Tensor:
        stage = self.stages[layer]
        patches = tokens[:, : math.prod(stage.grid)]
        if layer == len(self.stages) - 1:
            patches = self.model.norm(patches)
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

    def _described(self) -> tuple[Stage, ...]:
        """Return the description of every block."""
        return tuple(
            self._stage(f"layers.{number}", index)
            for number, group in enumerate(self.model.layers)
            for index in range(len(group.blocks))
        )

    def _stage(self, group: str, index: int) -> Stage:
        path = f"{group}.blocks.{index}"
        block, merging = self.model.get_submodule(path), self.model.get_submodule(f"{group}.downsample")
        sites: dict[str, tuple[Site, ...]] = {
            name: (site(self.model, f"{path}.attn.qkv", first=first, of=3),) for first, name in _THIRDS
        }
        for name, place in {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}.items():
            sites[name] = (site(self.model, f"{path}.{place}"),)
        width = block.attn.dim
        taps = (
            Tap(f"{path}.attn.qkv", "input", width),
            Tap(f"{path}.attn.proj", "output", width),
            Tap(f"{path}.mlp.fc2", "input", block.mlp.fc2.in_features),
            Tap(f"{path}.mlp", "output", width),
        )
        before = () if index or isinstance(merging, nn.Identity) else (merging,)
        return Stage(
            module=block,
            width=width,
            grid=tuple(block.grid if isinstance(block, SwinLayer) else block.input_resolution),
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
    _block = swin_v2.SwinTransformerV2Block
    _attention = swin_v2.WindowAttention
    _layer = SwinV2Layer

    def _merges(self) -> tuple[str, ...]:
        return ("reduction", "norm")

    def _operations(self, path: str) -> tuple[str, ...]:
        return norms_last(super()._operations(path))
