"""This module collects a backbone's intermediate values, averaged over the tokens: the features of Head2Toe (Evci et
al., 2022, arXiv:2201.03529).

The groups are the tokens that enter the first layer; for each layer its taps: in a transformer what its attention
reads, the output of its attention, the hidden units of its MLP and the MLP's output; and the final norm's output where
tokens are normed before they are pooled. The pooled features follow as the last group.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from peft_vision.backbone.families.trunk import Trunk
from peft_vision.backbone.stage import Tap

Part = Callable[[str], nn.Module]


@dataclass(frozen=True)
class TapGroup:
    """A group of features of one `width`. `stage`: the stage that it belongs to, the tokens that enter the first stage
    to that one; None for the final norm's output and the pooled features."""

    stage: int | None
    width: int


def tap_groups(trunk: Trunk) -> list[TapGroup]:
    """Return the groups, the pooled features last."""
    taps = [TapGroup(index, tap.width) for index, stage in enumerate(trunk.stages) for tap in stage.taps]
    last = [] if trunk.final_tap is None else [TapGroup(None, trunk.final_tap.width)]
    return [TapGroup(0, trunk.stages[0].width), *taps, *last, TapGroup(None, trunk.width)]


def group_widths(trunk: Trunk) -> list[int]:
    """Return the width of each group, the pooled features last."""
    return [group.width for group in tap_groups(trunk)]


@contextmanager
def gathered(trunk: Trunk, part: Part) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass over all tokens within the block fills: (B, width) for each group but the last.
    `part` finds a module by its path even where a module that contains it was wrapped."""
    groups: list[Tensor] = []

    def note_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        groups.append(_mean(args[0]))

    def note_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        groups.append(_mean(output))

    def hook(tap: Tap) -> Callable[[], None]:
        module = part(tap.path)
        if tap.channels_first:
            return module.register_forward_hook(
                lambda _, args, output: groups.append((args[0] if tap.side == "input" else output).mean(dim=(2, 3)))
            ).remove
        if tap.side == "input":
            return module.register_forward_pre_hook(note_input).remove
        return module.register_forward_hook(note_output).remove

    with ExitStack() as hooks:
        hooks.callback(trunk.layers[0].register_forward_pre_hook(note_input).remove)
        for stage in trunk.stages:
            for tap in stage.taps:
                hooks.callback(hook(tap))
        if trunk.final_tap is not None:
            hooks.callback(hook(trunk.final_tap))
        yield groups


def _mean(tokens: Tensor) -> Tensor:
    """Return the mean over the tokens, which may lie on a grid: (B, ..., W) to (B, W)."""
    return (tokens if tokens.ndim == 3 else tokens.flatten(1, -2)).mean(dim=1)
