"""This module is the family of all timm models that have none of their own: ResNet, RegNet, EfficientNet, MaxViT,
Hiera, CLIP's ResNets and many more.

    features = forward_head(forward_features(images), pre_logits=True)    by timm's own forward, which nothing replaces

Methods that change weights, or wrap single modules, work; those that need tokens do not. Whether a model can be used,
and which of its modules timm's forward calls, is found out by a forward pass over shapes alone. Its stages are timm's
own. Statistics of batch norms stay as they are unless all of the backbone trains, see `Encoder.held`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from peft_vision.backbone.families.groups import Groups
from peft_vision.backbone.families.trunk import Trunk, made_for
from peft_vision.backbone.stage import Need, Stage
from peft_vision.core.config import ConfigError

_SIZES = (224, 256, 192, 288, 384, 448, 512, 160, 128, 96, 64, 32)
_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)
_HAVE = ("forward_features", "forward_head")
_UNUSABLE = (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError, AttributeError, LookupError)
_TOKENS = "is computed by timm's own forward, in which no tokens can be added or read; use lora, ssf, bitfit or partial"
_LACKS: Mapping[Need, str] = {
    "sites": "has no matrices by these names; use lora with patterns such as method.targets=[*.conv1], or ssf",
    "branches": "is computed by timm's own forward, which has no place for further modules; use lora, ssf or bitfit",
    "prompts": _TOKENS,
    "contexts": _TOKENS,
    "taps": "is computed by timm's own forward, whose intermediate values are not known here; use lora, ssf or linear",
}


class AnyTrunk(Trunk):
    """Any timm image model. `reason`: why it is of no other family, or None where timm's class alone says so."""

    family = "any"
    builds = nn.Module
    divides = False

    def __init__(self, model: nn.Module, reason: str | None = None) -> None:
        super().__init__(model)
        why = "" if reason is None else f" ({reason})"
        self.lacks = {need: f"{text}{why}" for need, text in _LACKS.items()}
        self._groups = Groups(model)
        self._checkpoints = False
        self._first_pass = False
        self._hooks: list[RemovableHandle] = []
        self._kept: dict[nn.Module, tuple[float | None, Tensor]] = {}

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        return cls(model).unusable

    @cached_property
    def unusable(self) -> str | None:
        """Return why timm's model maps no images to features, or None."""
        if missing := [name for name in _HAVE if not hasattr(self.model, name)]:
            return f"timm's {type(self.model).__name__} has no {' and no '.join(missing)}"
        try:
            shape = self._pass.features.shape
        except _UNUSABLE as error:
            return f"timm's {type(self.model).__name__} maps no image to features: {_first_line(error)}"
        if len(shape) != 2:
            return f"its features are {tuple(shape)} for one image, where one vector of an image is needed"
        return None

    def misfit_size(self, size: tuple[int, int]) -> str | None:
        """Return why the model cannot take images of `size`, height and width, or None."""
        try:
            _run(self.model, size)
        except _UNUSABLE as error:
            return _first_line(error)
        return None

    def adopt(self) -> None:
        """Leave timm's modules as they are, and note which of them its forward calls before any is wrapped."""
        self._pass  # noqa: B018

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self._groups.stages

    @property
    def steps(self) -> Sequence[nn.Module]:
        return (self._through,)

    def positions(self) -> Sequence[None]:
        return (None,)

    def before(self) -> list[nn.Module | nn.Parameter]:
        return [self._groups.stem]

    def behind(self) -> list[nn.Module]:
        return [self._groups.end]

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        by_stage: dict[int | None, list[str]] = {}
        for path in self._pass.called:
            by_stage.setdefault(self._stage_of(path), []).append(path)
        return tuple(
            Stage(
                module=module,
                width=self.width,
                grid=None,
                num_prefix=0,
                sites={},
                operations=tuple(path for path in by_stage.get(index, ()) if self._scalable(path)),
                taps=None,
                unnamed=tuple(path for path in by_stage.get(index, ()) if self._is_matrix(path)),
            )
            for index, module in enumerate(self.layers)
        )

    @cached_property
    def width(self) -> int:
        return self._pass.features.shape[1]

    @property
    def final_tap(self) -> None:
        return None

    def token_shape(self, depth: int, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of features, as no tokens are known."""
        return (self.width,)

    @property
    def patch_size(self) -> tuple[int, int]:
        raise NotImplementedError("a model of this family need have no patches, and no method that asks for them works")

    @property
    def image_size(self) -> tuple[int, int] | None:
        return super().image_size or self._pass.size

    def stem(self, images: Tensor) -> Tensor:
        return images

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.forward_head(tokens, pre_logits=True)

    @property
    def stem_operations(self) -> tuple[str, ...]:
        return self._outside(self._groups.stem)

    @property
    def end_operations(self) -> tuple[str, ...]:
        return self._outside(self._groups.end)

    def checkpoint(self, enable: bool) -> bool:
        """Let timm's model compute its activations again where it can. Statistics of batch norms then follow the first
        pass alone. Raise ConfigError where it cannot."""
        try:
            if enable or self._checkpoints:
                self.model.set_grad_checkpointing(enable)
        except (AssertionError, NotImplementedError, AttributeError) as error:
            raise ConfigError(
                f"trainer.checkpointing: timm's {type(self.model).__name__} cannot compute activations again; set false"
            ) from error
        self._checkpoints = enable
        while self._hooks:
            self._hooks.pop().remove()
        for norm in [module for module in self.model.modules() if enable and isinstance(module, _BatchNorm)]:
            self._hooks.append(norm.register_forward_pre_hook(self._keep))
            self._hooks.append(norm.register_forward_hook(self._put_back, always_call=True))
        return True

    def _through(self, images: Tensor, positions: None) -> Tensor:
        self._first_pass = True
        try:
            return self.model.forward_features(images)
        finally:
            self._first_pass = False

    def _keep(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Let a batch norm that the backward pass calls once more leave its statistics as they are."""
        if not self._first_pass and norm.training and norm.num_batches_tracked is not None:
            self._kept[norm] = (norm.momentum, norm.num_batches_tracked.clone())
            norm.momentum = 0.0

    def _put_back(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if norm in self._kept:
            norm.momentum, count = self._kept.pop(norm)
            norm.num_batches_tracked.copy_(count)

    @cached_property
    def _pass(self) -> "_Pass":
        return _passed(self.model)

    def _stage_of(self, path: str) -> int | None:
        return self._groups.stage_of.get(f"{path}.weight")

    def _outside(self, group: nn.Module) -> tuple[str, ...]:
        inside = set(group.modules())
        return tuple(
            path
            for path in self._pass.called
            if self._scalable(path) and self._stage_of(path) is None and self.model.get_submodule(path) in inside
        )

    def _scalable(self, path: str) -> bool:
        """Return whether a scale and a shift can be merged into the module's own weight and bias."""
        module = self.model.get_submodule(path)
        return module.bias is not None

    def _is_matrix(self, path: str) -> bool:
        module = self.model.get_submodule(path)
        return type(module) is nn.Linear or _is_pointwise(module)


def _is_candidate(module: nn.Module) -> bool:
    """Return whether a module is a plain linear layer or convolution, or a norm with a weight of each channel."""
    if type(module) in (nn.Linear, nn.Conv2d):
        return True
    return isinstance(module, _NORMS) and module.weight is not None


def _is_pointwise(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1


@dataclass(frozen=True)
class _Pass:
    """The record of a forward pass: `features` (1, D) without numbers; `called`, the paths of the linear layers,
    convolutions and norms in the order in which timm's forward called them; `size`, height and width of the image, if
    the model takes no image of the recorded size."""

    features: Tensor
    called: tuple[str, ...]
    size: tuple[int, int] | None


def _passed(model: nn.Module) -> _Pass:
    """Return the pass of one image without any numbers: at the size that timm records for the model, or, for a model
    that was made for another one, at the first size that it takes. Raise what timm raises at the recorded size where it
    takes none."""
    recorded = getattr(model, "pretrained_cfg", {}).get("input_size") or (3, _SIZES[0], _SIZES[0])
    sizes = [made_for(model) or tuple(recorded[1:]), *((size, size) for size in _SIZES)]
    first: Exception | None = None
    for size in sizes:
        with _noted(model) as called:
            try:
                features = _run(model, size)
            except _UNUSABLE as error:
                first = first or error
                continue
        return _Pass(features, tuple(called), None if first is None else size)
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


def _run(model: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return the features of one image of `size` over shapes alone, in evaluation mode; the model stays as it is."""
    holder = _Features(model)
    state = {**dict(holder.named_parameters()), **dict(holder.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), torch.device("meta"):
            return functional_call(holder, shapes, (torch.empty(1, _channels(model), *size),))
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


class _Features(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
