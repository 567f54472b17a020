"""This module creates a timm model by name, checks it before any weights are read, and finds its preprocessing."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, WrapValidator
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from peft_vision.backbone.families.match import refuse_size, trunk_of
from peft_vision.backbone.outline import Outline, created, outline_of, shapes_alone
from peft_vision.backbone.quantized import Bits, check_bits
from peft_vision.backbone.source import FOLDER, ModelSource, absolute_name, find
from peft_vision.backbone.weights import load_weights, recorded_preprocessing, weights_hash
from peft_vision.core.config import FILE, ConfigError, HashDefault, component, nearest
from peft_vision.core.identity import PACKAGED
from peft_vision.core.preprocessing import MOST_CHANNELS, Preprocessing, Size, each_side, one_size, sides_of
from peft_vision.core.seeding import derive

_NORMALIZATIONS = {
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_OWNED = {
    "img_size": "it is backbone.img_size",
    "global_pool": "it is backbone.pool",
    "drop_path_rate": "it is backbone.drop_path",
    "num_classes": "the head belongs to the method",
    "in_chans": "it is backbone.in_chans",
}


@component
class Backbone:
    """The settings of a backbone.

    `name`: in timm, hf-hub:owner/name or local-dir:FOLDER. Weights come from the file `checkpoint` if one is set,
    otherwise from where `name` says if `pretrained`, otherwise they are random. `package:FILE` names a file shipped
    next to this module. `architecture`: further arguments of timm's model class. `img_size`, the side of an image in
    pixels or [height, width], `pool` and `in_chans`, the number of channels: None keeps those of the weights.
    `normalization` and `interpolation` of images: own keeps those of the weights; the others are for protocols that do
    not follow the weights. `frozen_bits`: bits in which the matrices of the blocks are held (see `quantized.py`), which
    none of may train; None: as they are loaded.
    """

    name: Annotated[str, AfterValidator(absolute_name)]
    pretrained: bool
    checkpoint: Annotated[str | None, FILE]
    img_size: Annotated[int, Field(gt=0), WrapValidator(each_side)] | None
    in_chans: Annotated[Annotated[int, Field(gt=0, le=MOST_CHANNELS)] | None, HashDefault(None)]
    pool: Literal["token", "avg", "max", "avgmax", "map"] | None
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    normalization: Annotated[Literal["own", "imagenet", "none"], HashDefault("own")]
    interpolation: Annotated[Literal["own", "bilinear", "bicubic"], HashDefault("own")]
    architecture: dict[str, Any]
    frozen_bits: Annotated[Bits | None, HashDefault(None)]

    def check(self) -> None:
        """Raise ConfigError for errors that show without reading weights: names, files, sizes, and models that are not
        plain ViTs. For a page of the hub, its config.json is downloaded once."""
        if self.frozen_bits is not None:
            check_bits(self.frozen_bits)
        self._checked(find(self.name))

    def record(self, vit: nn.Module) -> dict[str, Any]:
        """Return what a file says of the backbone that its tensors belong to: name, hash of the weights of `vit`, which
        are as loaded, and bits, if they are to be held in few."""
        held = {} if self.frozen_bits is None else {"frozen_bits": self.frozen_bits}
        return {"name": self.name, "hash": weights_hash(vit), **held}

    def outline(self) -> Outline:
        """Return the class and the shape of the model, of any family. ConfigError if timm cannot build it."""
        source = find(self.name)
        arguments = self._arguments(source, outline_of(source.registered, repr({})))
        return outline_of(source.registered, repr(arguments))

    @property
    def drops(self) -> bool:
        """True if the backbone is configured to drop anything in training."""
        rates = [value for key, value in self.architecture.items() if key.endswith("drop_rate")]
        return self.drop_path > 0 or any(rates)

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing recorded in a safetensors file of ours, otherwise that of the weights `name`, with
        `img_size`, `in_chans`, `normalization` and `interpolation` replaced where they are set."""
        return self._preprocessing(find(self.name))

    def load(self) -> VisionTransformer:
        """Return the model from images to pooled features: no head, fp32, on the CPU, in training mode, all parameters
        trainable. Raise ConfigError as `check` does, and where the weights cannot be read or do not fit."""
        source = find(self.name)
        outline = self._checked(source)
        file = self._file() if self.checkpoint is not None else source.weights_file() if self.pretrained else None
        vit = created(source.registered, self._arguments(source, outline), **source.built_with())
        if file is not None:
            load_weights(vit, file, in_chans=self._channels(source), from_chans=source.config.input_size[0])
        return vit

    def _checked(self, source: ModelSource) -> Outline:
        """Return the outline of the model that the registry has, after the checks of `check`."""
        if self.checkpoint is not None:
            self._file()
        elif self.pretrained:
            source.check_weights()
        registered = outline_of(source.registered, repr({}))
        self._check_architecture(registered)
        made = outline_of(source.registered, repr(self._arguments(source, registered)))
        made.require_family()
        size = self._preprocessing(source).size
        if made.patch is not None and (self.img_size is not None or self.architecture):
            # timm leaves out what a model's own size has beyond its last patch
            _require_tiled(size, made.patch, source.name)
        fixed = "img_size" in registered.takes  # such a model has just been built for a square
        if self.img_size is not None and not (fixed and isinstance(size, int)):
            trunk = trunk_of(self.of_shapes())
            trunk.adopt()
            refuse_size(trunk, sides_of(size))
        return registered

    def _preprocessing(self, source: ModelSource) -> Preprocessing:
        own = self._recorded() or self._of_weights(source)
        if self.normalization != "own":
            mean, std = _NORMALIZATIONS[self.normalization]
            own = replace(own.with_channels(len(mean)), mean=mean, std=std)
        interpolation = own.interpolation if self.interpolation == "own" else self.interpolation
        own = replace(own, size=self.img_size or own.size, interpolation=interpolation)
        return own.with_channels(self._channels(source))

    def _recorded(self) -> Preprocessing | None:
        return recorded_preprocessing(self._file()) if self.checkpoint is not None else None

    def _channels(self, source: ModelSource) -> int:
        """Return C, the number of channels of an image: as set, as recorded, or as the weights have it."""
        if self.in_chans is not None:
            return self.in_chans
        recorded = self._recorded()
        return source.config.input_size[0] if recorded is None else recorded.channels

    def own_file(self) -> Path | None:
        """Return the user's own file of weights, which can change under its name; None for weights of the hub, those of
        this package, random ones, and a folder without any."""
        if self.checkpoint is not None:
            return None if self.checkpoint.startswith(PACKAGED) else Path(self.checkpoint)
        if not self.pretrained or not self.name.startswith(FOLDER):
            return None
        try:
            return find(self.name).weights_file()
        except ConfigError:
            return None

    def of_shapes(self) -> nn.Module:
        """Return the model without any numbers, on the meta device. ConfigError if timm cannot build it."""
        source = find(self.name)
        arguments = self._arguments(source, outline_of(source.registered, repr({})))
        with shapes_alone():
            return created(source.registered, arguments, **source.built_with())

    def in_timm(self) -> tuple[str, dict[str, Any]]:
        """Return the name and the arguments, besides the number of classes, by which timm.create_model builds a model
        of this shape with random weights that drops nothing."""
        source = find(self.name)
        arguments = self._arguments(source, outline_of(source.registered, repr({})))
        return source.registered, {key: value for key, value in arguments.items() if key != "drop_path_rate"}

    def _arguments(self, source: ModelSource, outline: Outline) -> dict[str, Any]:
        """Return timm's arguments for this model. Only some classes take the size of an image, or drop paths."""
        found: dict[str, Any] = {}
        if "img_size" in outline.takes:
            found["img_size"] = self._preprocessing(source).size
        channels = self._channels(source)
        if {outline.channels, source.config.input_size[0]} != {channels}:
            found["in_chans"] = channels
        if self.pool is not None:
            found["global_pool"] = self.pool
        further = {**source.arguments, **self.architecture}
        if outline.headless and not further.get("global_pool"):
            further["global_pool"] = "avg"  # else timm gives tokens, or those that a language model reads
        if further.get("global_pool") == "":  # the model of a page that leaves pooling to its user
            further["global_pool"] = "token"
        if self.drop_path or "drop_path_rate" in outline.takes:
            found["drop_path_rate"] = self.drop_path
        return {**further, **found}

    def _check_architecture(self, outline: Outline) -> None:
        known = [key for key in outline.takes if key not in _OWNED]
        for key in self.architecture:
            if key in _OWNED:
                raise ConfigError(f"backbone.architecture.{key}: does not go here, {_OWNED[key]}")
            if key not in known:
                hint = nearest(key, known) or f"; it takes {', '.join(known)}"
                raise ConfigError(f"backbone.architecture.{key}: unknown to timm's {outline.cls}{hint}")

    def _file(self) -> Path:
        inside = self.checkpoint.startswith(PACKAGED)
        folder = Path(__file__).parent if inside else Path.cwd()
        path = folder / Path(self.checkpoint.removeprefix(PACKAGED)).expanduser()
        if not path.is_file():
            what = "this installation has no" if inside else "no"
            raise ConfigError(f"backbone.checkpoint: {what} file {path}")
        return path

    def _of_weights(self, source: ModelSource) -> Preprocessing:
        config = source.config
        # random weights were not trained on crops, and a centre crop would only hide the borders
        crop = config.crop_pct if self.pretrained or self.checkpoint is not None else 1.0
        made = Preprocessing(
            size=one_size(*config.input_size[-2:]),
            mean=tuple(config.mean),
            std=tuple(config.std),
            interpolation=config.interpolation,
            crop=crop,
        )
        if source.in_registry:
            return made
        try:
            return Preprocessing.restore(made.with_channels(config.input_size[0]).record())
        except ValueError as error:
            raise ConfigError(f"backbone.name: the config.json of {source.name}: {error}") from error


def _require_tiled(size: Size, patch: int, name: str) -> None:
    """Raise ConfigError where patches do not tile images of this size, with the sizes next to it that they tile."""
    sides = sides_of(size)
    if not any(side % patch for side in sides):
        return
    below = one_size(*(max(side // patch, 1) * patch for side in sides))
    above = one_size(*(-(-side // patch) * patch for side in sides))
    said, *fitting = (str(found if isinstance(found, int) else list(found)) for found in (size, below, above))
    nearest_sizes = list(dict.fromkeys(fitting))
    raise ConfigError(
        f"backbone.img_size: {said} is no multiple of the {patch} px patches of {name}; "
        f"{' and '.join(nearest_sizes)} {'is' if len(nearest_sizes) == 1 else 'are'}"
    )


def load_backbone(backbone: Backbone, *, seed: int) -> VisionTransformer:
    """Return the loaded backbone; random weights are drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "backbone"))
        return backbone.load()
