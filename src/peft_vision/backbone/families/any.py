"""This module is the family of all timm models that have none of their own: ResNet, RegNet, EfficientNet, MaxViT,
Hiera, CLIP's ResNets and many more.

    features = forward_head(forward_features(images), pre_logits=True)    by timm's own forward, which nothing replaces

Methods that change weights, or wrap single modules, work; those that need tokens do not. Whether a model can be used,
and which of its modules timm's forward calls, is found out by a forward pass over shapes alone. Its stages are timm's
own. Statistics of batch norms stay as they are unless all of the backbone trains, see `Encoder.held`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from peft_vision.backbone.families.groups import Groups
from peft_vision.backbone.families.shapes import (
    UNUSABLE,
    MapPass,
    Passed,
    is_headless,
    on_meta,
    passed,
    pooled,
    run_shapes,
)
from peft_vision.backbone.families.trunk import Trunk
from peft_vision.backbone.stage import Need, Stage
from peft_vision.core.config import ConfigError
from peft_vision.core.output import first_line

_HAVE = ("forward_features", "forward_head")
_TOKENS = "is computed by timm's own forward, in which no tokens can be added or read; use lora, ssf, bitfit or partial"
_LACKS: Mapping[Need, str] = {
    "sites": "has no matrices by these names; use lora with patterns such as method.targets=[*.conv1], or ssf",
    "branches": "is computed by timm's own forward, which has no place for further modules; use lora, ssf or bitfit",
    "prompts": _TOKENS,
    "contexts": _TOKENS,
    "taps": "is computed by timm's own forward, whose intermediate values are not known here; use lora, ssf or linear",
    "grids": "is computed by timm's own forward, which shows its last features alone; use segment_linear or setr_pup",
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
        self._headless = is_headless(model)
        self._checkpoints = False
        self._first_pass = False
        self._hooks: list[RemovableHandle] = []
        self._map_shape: tuple[int, int, int] | None = None
        self._channels_last = False
        self._pooling: list[nn.Parameter] = []
        self._kept: dict[nn.Module, tuple[float | None, Tensor]] = {}

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        return cls(model).unusable

    @cached_property
    def unusable(self) -> str | None:
        """Return why timm's model maps no images to features, or None."""
        if missing := [name for name in _HAVE if not hasattr(self.model, name)]:
            return f"timm's {type(self.model).__name__} has no {' and no '.join(missing)}"
        if self._headless and self.model.global_pool != "avg":
            made = f"built with global_pool={self.model.global_pool!r}"
            return f"timm's {type(self.model).__name__}, {made}, gives tokens; global_pool='avg' gives their mean"
        try:
            shape = self._pass.features.shape
        except UNUSABLE as error:
            return f"timm's {type(self.model).__name__} maps no image to features: {first_line(error)}"
        if len(shape) != 2:
            return f"its features are {tuple(shape)} for one image, where one vector of an image is needed"
        return None

    def misfit_size(self, size: tuple[int, int]) -> str | None:
        """Return why the model cannot take images of `size`, height and width, or None."""
        if size == self._pass.taken:
            return None
        try:
            run_shapes(self.model, size)
        except UNUSABLE as error:
            return first_line(error)
        return None

    def check_size(self, found: tuple[int, int], taken: tuple[int, int] | None) -> None:
        """Check nothing: timm's own forward takes images of other sizes or refuses them."""

    def show_grid(self, image_size: tuple[int, int]) -> None:
        """Note the shape of the model's last features, which can be found as long as its modules are timm's own, or in
        `lacks` why they are no map of the image."""
        super().show_grid(image_size)
        shown, _ = on_meta(MapPass(self.model), image_size)
        shape = tuple(shown.shape) if isinstance(shown, Tensor) else None
        if shape is None or len(shape) != 4:
            self.lacks["grid"] = f"shows {shape} of one image before it pools that, which is no map of the image"
            return
        width = self.model.num_features
        self._channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC" or (shape[1] != width == shape[3])
        self._map_shape = (shape[3], *shape[1:3]) if self._channels_last else shape[1:]
        self._pooling = self._unreached(image_size)

    def grid(self, tokens: Tensor, layer: int) -> Tensor:
        return tokens.permute(0, 3, 1, 2) if self._channels_last else tokens

    def grid_shape(self, layer: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """Return the shape for images of the size that `show_grid` was told."""
        return self._map_shape

    def pooling(self) -> list[nn.Parameter]:
        """Return the parameters that no gradient of the last features reaches."""
        return self._pooling

    def _unreached(self, image_size: tuple[int, int]) -> list[nn.Parameter]:
        """Return the parameters that no gradient of the last features reaches, found over shapes alone."""
        holder = MapPass(self.model)
        with torch.enable_grad():
            shown, parameters = on_meta(holder, image_size, gradients=True)
            found = torch.autograd.grad(shown.sum(), list(parameters.values()), allow_unused=True)
        names = [name for name, gradient in zip(parameters, found, strict=True) if gradient is None]
        return [holder.get_parameter(name) for name in names]

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
        return pooled(self.model, tokens, headless=self._headless)

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
    def _pass(self) -> Passed:
        return passed(self.model)

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


def _is_pointwise(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1
