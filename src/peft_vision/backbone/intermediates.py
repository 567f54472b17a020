"""This module collects a ViT's intermediate values, averaged over the tokens: the features of Head2Toe (Evci et al.,
2022, arXiv:2201.03529).

The groups are the tokens that enter the first layer; for each layer its normed input, the output of its attention, the
hidden units of its MLP and the MLP's output; and the final norm's output. The pooled features follow as the last group.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

GROUPS_A_LAYER = 4
Part = Callable[[str], nn.Module]


def group_widths(vit: VisionTransformer, part: Part | None = None) -> list[int]:
    """Return the width of each group, the pooled features last. `part` finds a module of `vit` by name even where a
    module that contains it was wrapped."""
    width, part = vit.embed_dim, part or vit.get_submodule
    hidden = [part(f"blocks.{index}.mlp.fc2").in_features for index in range(len(vit.blocks))]
    return [width, *(group for units in hidden for group in (width, width, units, width)), width, vit.num_features]


@contextmanager
def gathered(vit: VisionTransformer, part: Part | None = None) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass over all tokens within the block fills: (B, width) for each group but the
    last."""
    groups: list[Tensor] = []
    part = part or vit.get_submodule

    def note_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        groups.append(args[0].mean(dim=1))

    def note_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        groups.append(output.mean(dim=1))

    with ExitStack() as hooks:
        hooks.callback(vit.blocks[0].register_forward_pre_hook(note_input).remove)
        for block in (f"blocks.{index}" for index in range(len(vit.blocks))):
            hooks.callback(part(f"{block}.attn.qkv").register_forward_pre_hook(note_input).remove)
            hooks.callback(part(f"{block}.attn.proj").register_forward_hook(note_output).remove)
            hooks.callback(part(f"{block}.mlp.fc2").register_forward_pre_hook(note_input).remove)
            hooks.callback(part(f"{block}.mlp").register_forward_hook(note_output).remove)
        hooks.callback(vit.norm.register_forward_hook(note_output).remove)
        yield groups
