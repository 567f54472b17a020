"""This module creates a plain timm Vision Transformer by name, checks it before any weights are read, and finds its
preprocessing."""

import inspect
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from peft_vision.backbone.families.match import refuse_unusual
from peft_vision.backbone.hub import hub_file
from peft_vision.backbone.weights import load_weights, recorded_preprocessing
from peft_vision.core.config import FILE, ConfigError, HashDefault, component, nearest
from peft_vision.core.identity import PACKAGED
from peft_vision.core.preprocessing import Preprocessing
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
    "in_chans": "images have three channels",
}


@component
class Backbone:
    """The settings of a backbone.

    Weights come from the file `checkpoint` if one is set, otherwise from the hub if `pretrained`, otherwise they are
    random. `package:FILE` names a file shipped next to this module. `architecture`: further arguments of timm's
    VisionTransformer. `img_size` and `pool`: None keeps those of the weights. `normalization` and `interpolation` of
    images: own keeps those of the weights; the others are for protocols that do not follow the weights.
    """

    name: str
    pretrained: bool
    checkpoint: Annotated[str | None, FILE]
    img_size: Annotated[int, Field(gt=0)] | None
    pool: Literal["token", "avg", "max", "avgmax", "map"] | None
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    normalization: Annotated[Literal["own", "imagenet", "none"], HashDefault("own")]
    interpolation: Annotated[Literal["own", "bilinear", "bicubic"], HashDefault("own")]
    architecture: dict[str, Any]

    def check(self) -> None:
        """Raise ConfigError for errors that show without reading weights: names, files, sizes, and models that are not
        plain ViTs."""
        if not timm.is_model(self.name.partition(".")[0]):
            known = timm.list_pretrained() if "." in self.name else timm.list_models()
            raise ConfigError(f"backbone.name: timm has no model {self.name!r}{nearest(self.name, known)}")
        config = _config(self.name)
        self._checkarchitecture()
        if self.checkpoint is not None:
            self._file()
        elif self.pretrained and not config.hf_hub_id:
            remedy = f"download {config.url} for backbone.checkpoint=FILE" if config.url else _tagged(self.name)
            raise ConfigError(
                f"backbone.pretrained: the hub has no weights for {self.name}; {remedy}, "
                "or backbone.pretrained=false for random weights"
            )
        _checked_patch(self.name, repr({}))
        size, patch = self.preprocessing().size, _checked_patch(self.name, repr(self._arguments()))
        if size % patch:
            raise ConfigError(
                f"backbone.img_size: {size} is no multiple of the {patch} px patches of {self.name}; "
                f"{max(size // patch, 1) * patch} and {(size // patch + 1) * patch} are"
            )

    @property
    def drops(self) -> bool:
        """True if the backbone is configured to drop anything in training."""
        rates = [value for key, value in self.architecture.items() if key.endswith("drop_rate")]
        return self.drop_path > 0 or any(rates)

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing recorded in a safetensors file of ours, otherwise timm's for the weights `name`,
        with `img_size`, `normalization` and `interpolation` replaced where they are set."""
        recorded = recorded_preprocessing(self._file()) if self.checkpoint is not None else None
        own = recorded or self._timm_preprocessing()
        mean, std = (own.mean, own.std) if self.normalization == "own" else _NORMALIZATIONS[self.normalization]
        interpolation = own.interpolation if self.interpolation == "own" else self.interpolation
        return replace(own, size=self.img_size or own.size, mean=mean, std=std, interpolation=interpolation)

    def load(self) -> VisionTransformer:
        """Return the model from images to pooled features: no head, fp32, on the CPU, in training mode, all parameters
        trainable. Raise ConfigError as `check` does, and where the weights cannot be read or do not fit."""
        self.check()
        source = self._source()
        vit = _created(self.name, self._arguments())
        if source is not None:
            load_weights(vit, source)
        return vit

    def _source(self) -> Path | None:
        if self.checkpoint is not None:
            return self._file()
        return hub_file(self.name, _config(self.name).hf_hub_id) if self.pretrained else None

    def _arguments(self) -> dict[str, Any]:
        """Return timm's arguments for this model."""
        pool = {} if self.pool is None else {"global_pool": self.pool}
        return self.architecture | {"img_size": self.preprocessing().size, "drop_path_rate": self.drop_path} | pool

    def _checkarchitecture(self) -> None:
        known = [key for key in inspect.signature(VisionTransformer).parameters if key not in _OWNED]
        for key in self.architecture:
            if key in _OWNED:
                raise ConfigError(f"backbone.architecture.{key}: does not go here, {_OWNED[key]}")
            if key not in known:
                hint = nearest(key, known) or f"; it takes {', '.join(known)}"
                raise ConfigError(f"backbone.architecture.{key}: unknown to timm's VisionTransformer{hint}")

    def _file(self) -> Path:
        inside = self.checkpoint.startswith(PACKAGED)
        folder = Path(__file__).parent if inside else Path.cwd()
        path = folder / Path(self.checkpoint.removeprefix(PACKAGED)).expanduser()
        if not path.is_file():
            what = "this installation has no" if inside else "no"
            raise ConfigError(f"backbone.checkpoint: {what} file {path}")
        return path

    def _timm_preprocessing(self) -> Preprocessing:
        config = _config(self.name)
        # random weights were not trained on crops, and a centre crop would only hide the borders
        crop = config.crop_pct if self.pretrained or self.checkpoint is not None else 1.0
        return Preprocessing(
            size=config.input_size[-1],
            mean=tuple(config.mean),
            std=tuple(config.std),
            interpolation=config.interpolation,
            crop=crop,
        )


@lru_cache(maxsize=256)
def _checked_patch(name: str, arguments: str) -> int:
    """Return the patch size of a model with these arguments of timm, in Python's notation, once it is known to be a
    plain ViT. A model of shapes alone suffices, which takes no memory and no download. ConfigError for any other model.
    """
    with torch.device("meta"):
        vit = _created(name, literal_eval(arguments))
    refuse_unusual(vit)
    return vit.patch_embed.patch_size[0]


def _created(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise ConfigError(f"backbone: timm cannot build {name} with {given}: {error}") from error


def load_backbone(backbone: Backbone, *, seed: int) -> VisionTransformer:
    """Return the loaded backbone; random weights are drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "backbone"))
        return backbone.load()


def _config(name: str) -> PretrainedCfg:
    """Return timm's record of the weights `name`. Raise ConfigError for unknown weights, and for old names without a
    tag, which do not say which weights they mean."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        stem, _, tag = name.partition(".")
        raise ConfigError(f"backbone.name: timm has no weights {tag!r} of {stem}; {_tagged(stem)}") from error
    if config is not None:
        return config
    known = timm.list_pretrained(f"{name.removesuffix('_in21k')}.*in21k") if name.endswith("_in21k") else []
    remedy = f"; write {' or '.join(known)}" if known else nearest(name, timm.list_pretrained())
    raise ConfigError(f"backbone.name: {name} is an old name that hides which weights it means{remedy}")


def _tagged(name: str) -> str:
    known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    return f"it has {', '.join(known) or 'none at all'}"
