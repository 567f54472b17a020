"""This module is the family of timm's ConvNeXt (Liu et al., 2022, arXiv:2201.03545), ConvNeXt-V2 with its global
response norm (Woo et al., 2023, arXiv:2301.00808), and the ConvNeXts of CLIP and DINOv3.

    tokens + gamma * MLP(norm(depthwise 7 x 7 convolution of tokens))

A layer is a block, behind the convolution that halves the grid where it is the first of its group. Tokens lie on a grid
with the channels last, (B, H, W, D). Some models of timm compute the MLP as 1x1 convolutions with the channels first:
here these are the same linear layers over the last axis, with the same names and shapes of their weights.
"""

from collections.abc import Mapping
from typing import ClassVar

from timm.layers import (
    ClassifierHead,
    Conv2dSame,
    GlobalResponseNormMlp,
    LayerNorm,
    LayerNorm2d,
    Mlp,
    NormMlpClassifierHead,
    RmsNorm,
    RmsNorm2d,
    SimpleNorm,
    SimpleNorm2d,
)
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from torch import Tensor, nn

from peft_vision.backbone.families.grouped import GroupedTrunk
from peft_vision.backbone.families.trunk import strangers
from peft_vision.backbone.linear import Pointwise
from peft_vision.backbone.stage import Branch, Need, Ports, Stage, Tap, site

_CHANNELS_LAST = {LayerNorm2d: LayerNorm, RmsNorm2d: RmsNorm, SimpleNorm2d: SimpleNorm}
_NORMS = (*_CHANNELS_LAST, *_CHANNELS_LAST.values())
_CONVOLUTIONAL = "is convolutional, it has no tokens to append to; method.location=pad is a border of pixels around it"


class ConvNeXtLayer(Ports):
    """A block of timm's ConvNeXt over tokens (B, H, W, D)."""

    rows = None  # every token is pooled
    observer = None

    def __init__(self, block: nn.Module, smaller: nn.Module | None) -> None:
        super().__init__(block)
        self._smaller = () if smaller is None else (smaller,)  # in a tuple, so not registered here under another name
        if not hasattr(self, "gamma"):
            self.register_parameter("gamma", None)

    @property
    def branches(self) -> dict[str, Branch]:
        return {"mlp": Branch(self.beside_mlp, "ls2", self.drop_path)}

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map (B, H, W, D), or what is halved to that, to (B, H, W, D)."""
        image = _channels_first(tokens)
        for smaller in self._smaller:
            image = smaller(image)
        tokens = _channels_last(image)
        if self.entrance is not None:
            tokens = self.entrance(tokens)
            image = _channels_first(tokens)
        normed = self.norm(_channels_last(self.conv_dw(image)))
        output = self.mlp(normed)
        output = self.ls2(output if self.gamma is None else output * self.gamma)
        updated = _channels_last(self.shortcut(image)) + self.drop_path(output)
        for module in self.beside_mlp:
            updated = updated + module(tokens, normed)
        for module in self.behind:
            updated = updated + module(updated)
        return updated


class ConvNeXtTrunk(GroupedTrunk):
    family = "convnext"
    builds = ConvNeXt
    groups = "stages"
    block = ConvNeXtBlock
    of_model = ("stem", "stages", "norm_pre", "head")
    of_block = ("conv_dw", "norm", "mlp", "gamma", "shortcut", "drop_path")
    lacks: ClassVar[Mapping[Need, str]] = {
        "prompts": _CONVOLUTIONAL,
        "contexts": "is convolutional, so it has no context that a query could see; head2toe reads every layer of it",
    }

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        return (
            strangers("its head is", [model.head], (ClassifierHead, NormMlpClassifierHead))
            or super().misfit(model)
            or strangers("its blocks are normed by", [block.norm for block in cls.blocks_of(model)], _NORMS)
            or strangers("its MLPs are", [block.mlp for block in cls.blocks_of(model)], (Mlp, GlobalResponseNormMlp))
        )

    def layer(self, block: nn.Module, smaller: nn.Module | None, group: nn.Module) -> ConvNeXtLayer:
        if block.use_conv_mlp:
            _make_channels_last(block)
        return ConvNeXtLayer(block, smaller)

    @property
    def patch_size(self) -> tuple[int, int]:
        return (self.model.feature_info[0]["reduction"],) * 2

    @property
    def final_tap(self) -> Tap | None:
        if isinstance(self.model.norm_pre, nn.Identity):
            return None  # the norm of the head reads what is pooled
        return Tap("norm_pre", "output", self.model.num_features, channels_first=True)

    def token_shape(self, depth: int, image_size: tuple[int, int]) -> tuple[int, ...]:
        height, width = _after(self.model.stem, image_size)
        passed = self.stages[:depth]
        for stage in passed:
            for module in stage.before:
                height, width = _after(module, (height, width))
        return (height, width, passed[-1].width if passed else self.stages[0].width)

    def misfit_size(self, size: tuple[int, int]) -> str | None:
        depth = len(self.stages)
        if min(self.token_shape(depth, size)) > 0:
            return None
        least = next(side for side in range(1, 4096) if min(self.token_shape(depth, (side, side))) > 0)
        return f"it halves them until no token is left, so they should have {least} px or more"

    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to tokens (B, H / 4, W / 4, D)."""
        return _channels_last(self.model.stem(images))

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.head(self.model.norm_pre(_channels_first(tokens)), pre_logits=True)

    def grid(self, tokens: Tensor, layer: int) -> Tensor:
        image = _channels_first(tokens)
        return self.model.norm_pre(image) if layer == len(self.stages) - 1 else image

    def grid_shape(self, layer: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
        height, width, channels = self.token_shape(layer + 1, image_size)
        return (channels, height, width)

    def pooling(self) -> list[nn.Parameter]:
        """Return the parameters of the norm of what is pooled, and of a layer behind it."""
        return list(self.model.head.parameters())

    def behind(self) -> list[nn.Module]:
        return [self.model.norm_pre, self.model.head]

    @property
    def stem_operations(self) -> tuple[str, ...]:
        return tuple(f"stem.{name}" for name in _with_parameters(self.model.stem))

    @property
    def end_operations(self) -> tuple[str, ...]:
        found = {
            "norm_pre": self.model.norm_pre,
            "head.norm": getattr(self.model.head, "norm", None),
            "head.pre_logits.fc": getattr(getattr(self.model.head, "pre_logits", None), "fc", None),
        }
        return tuple(
            name for name, module in found.items() if module is not None and any(True for _ in module.parameters())
        )

    def _stage(self, group: str, index: int, before: tuple[nn.Module, ...]) -> Stage:
        path = f"{group}.blocks.{index}"
        block = self.model.get_submodule(path)
        width = block.conv_dw.out_channels
        sites = {name: (site(self.model, f"{path}.mlp.{name}"),) for name in ("fc1", "fc2")}
        way = [f"{group}.downsample.{name}" for smaller in before for name in _with_parameters(smaller)]
        return Stage(
            module=block,
            width=width,
            grid=None,
            num_prefix=0,
            sites=sites,
            operations=(*way, *(f"{path}.{name}" for name in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"))),
            taps=(
                Tap(f"{path}.norm", "output", width),
                Tap(f"{path}.mlp.fc2", "input", sites["fc1"][0].num_rows),
                Tap(f"{path}.mlp", "output", width),
            ),
            before=before,
        )


def _make_channels_last(block: nn.Module) -> None:
    """Let norm and MLP of a block read tokens (B, H, W, D), with the same parameters under the same names."""
    kind, norm = _CHANNELS_LAST[type(block.norm)], block.norm
    block.norm = kind(block.conv_dw.out_channels, eps=norm.eps).train(norm.training)
    for name, parameter in norm.named_parameters():
        setattr(block.norm, name, parameter)
    block.mlp.fc1, block.mlp.fc2 = Pointwise(block.mlp.fc1), Pointwise(block.mlp.fc2)
    if hasattr(block.mlp, "grn"):
        block.mlp.grn.spatial_dim, block.mlp.grn.channel_dim, block.mlp.grn.wb_shape = (1, 2), -1, (1, 1, 1, -1)


def _with_parameters(modules: nn.Sequential) -> list[str]:
    """Return the names of the children that have parameters."""
    return [name for name, module in modules.named_children() if any(True for _ in module.parameters())]


def _after(modules: nn.Sequential, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image of `size` after the convolutions of `modules`, wrapped or not."""
    for convolution in (module for module in modules.modules() if isinstance(module, nn.Conv2d)):
        if isinstance(convolution, Conv2dSame):
            size = tuple(-(-side // stride) for side, stride in zip(size, convolution.stride, strict=True))
            continue
        reaches = [
            rate * (length - 1) - 2 * edge
            for rate, length, edge in zip(
                convolution.dilation, convolution.kernel_size, convolution.padding, strict=True
            )
        ]
        steps = convolution.stride
        size = tuple((side - reach - 1) // step + 1 for side, reach, step in zip(size, reaches, steps, strict=True))
    return size


def _channels_last(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1)


def _channels_first(tokens: Tensor) -> Tensor:
    return tokens.permute(0, 3, 1, 2)
