"""This module passes an image through timm's own forward over shapes alone: it finds out whether a model maps images to
features, how wide these are, which modules its forward calls, and the shapes of what it shows of an image.

    features = forward_head(forward_features(images), pre_logits=True)
    features = mean of forward_features(images) over the tokens           encoders of language models, without a head
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from peft_vision.backbone.families.trunk import made_for

_SIZES = (224, 256, 192, 288, 384, 448, 512, 160, 128, 96, 64, 32)
_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)
UNUSABLE = (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError, AttributeError, LookupError)
"""The errors of a forward pass by which timm refuses an image."""


@dataclass(frozen=True)
class Passed:
    """The record of a forward pass: `features` (1, D) without numbers; `called`, the paths of the linear layers,
    convolutions and norms in the order in which timm's forward called them; `taken`, height and width of the image;
    `size`, the same if the model takes no image of the recorded size, else None."""

    features: Tensor
    called: tuple[str, ...]
    taken: tuple[int, int]
    size: tuple[int, int] | None


def passed(model: nn.Module) -> Passed:
    """Return the pass of one image without any numbers: at the size that timm records for the model, or, for a model
    that was made for another one, at the first size that it takes. Raise what timm raises at the recorded size where it
    takes none."""
    recorded = getattr(model, "pretrained_cfg", {}).get("input_size") or (3, _SIZES[0], _SIZES[0])
    sizes = [made_for(model) or tuple(recorded[1:]), *((size, size) for size in _SIZES)]
    first: Exception | None = None
    for size in sizes:
        with _noted(model) as called:
            try:
                features = run_shapes(model, size)
            except UNUSABLE as error:
                first = first or error
                continue
        return Passed(features, tuple(called), size, None if first is None else size)
    raise first


@contextmanager
def _noted(model: nn.Module) -> Iterator[dict[str, None]]:
    """Yield a dict whose keys are the paths of the candidates that are called within the block, in that order."""
    paths = {module: path for path, module in model.named_modules() if _is_candidate(module)}
    called: dict[str, None] = {}
    note = lambda module, _: called.setdefault(paths[module])  # noqa: E731
    hooks = [module.register_forward_pre_hook(note) for module in paths]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def run_shapes(model: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return the features of one image of `size` over shapes alone, in evaluation mode; the model stays as it is."""
    return on_meta(PooledPass(model), size)[0]


def on_meta(
    holder: "PooledPass", size: tuple[int, int], *, gradients: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what `holder` computes of one image of `size` over shapes alone, in evaluation mode, and the parameters,
    by name, that it is computed with; the model stays as it is."""
    model = holder.model
    parameters = {
        name: parameter.detach().to("meta").requires_grad_(gradients) for name, parameter in holder.named_parameters()
    }
    state = {**parameters, **{name: buffer.detach().to("meta") for name, buffer in holder.named_buffers()}}
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.set_grad_enabled(gradients), torch.device("meta"):
            return functional_call(holder, state, (torch.empty(1, _channels(model), *size),)), parameters
    finally:
        for module, mode in modes.items():
            module.training = mode


def _channels(model: nn.Module) -> int:
    """Return the number of channels of an image: what timm's model says, or that of its first convolution, if that is
    another one than the recorded number and no multiple of it, which a stem that folds pixels into channels has."""
    known = getattr(model, "pretrained_cfg", {})
    recorded = (known.get("input_size") or (3,))[0]
    if own := getattr(model, "in_chans", None):
        return own
    name = known.get("first_conv")
    try:
        found = model.get_submodule(name) if isinstance(name, str) else None
    except AttributeError:
        found = None
    if type(found) is not nn.Conv2d or found.in_channels % (4 * recorded) == 0:
        return recorded
    return found.in_channels


class PooledPass(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.headless = is_headless(model)

    def forward(self, images: Tensor) -> Tensor:
        return pooled(self.model, self.model.forward_features(images), headless=self.headless)


class MapPass(PooledPass):
    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)


def is_headless(model: nn.Module) -> bool:
    """Return whether timm's model is an encoder without a head, as those of language models are (Qwen3, DeepSeek,
    Gemma 4): its `forward_head` is not implemented, and its `global_pool` says what its forward gives."""
    try:
        model.forward_head(torch.empty(0))
    except NotImplementedError:
        return isinstance(getattr(model, "global_pool", None), str) and getattr(model, "num_classes", None) == 0
    except UNUSABLE:
        return False
    return False


def pooled(model: nn.Module, tokens: Tensor, *, headless: bool) -> Tensor:
    """Return features (B, D) of what `forward_features` gives: by timm's head, or, where there is none, the mean of the
    tokens (B, ..., D), as timm's forward with global_pool='avg' has it."""
    if headless:
        return tokens.flatten(1, -2).mean(dim=1)
    return model.forward_head(tokens, pre_logits=True)


def _is_candidate(module: nn.Module) -> bool:
    """Return whether a module is a plain linear layer or convolution, or a norm with a weight of each channel."""
    if type(module) in (nn.Linear, nn.Conv2d):
        return True
    return isinstance(module, _NORMS) and module.weight is not None
