"""This module is peft-vision as a library: adapt a timm Vision Transformer, save what was tuned, and load it again,
one adapter or, in an `AdapterSet`, several on one backbone.

`component_values` turns what a caller gives for a component into the values of its YAML file.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from timm.data import resolve_data_config
from timm.models.vision_transformer import VisionTransformer

from peft_vision.backbone import merge
from peft_vision.backbone.families.match import architecture, trunk_of
from peft_vision.backbone.merge import plain_names, unmergeable
from peft_vision.backbone.quantized import Bits
from peft_vision.backbone.source import HUB
from peft_vision.backbone.weights import weights_hash
from peft_vision.core.composition import complete, option
from peft_vision.core.config import CONFIG_DIR, ConfigError, build, locate
from peft_vision.core.identity import spelled
from peft_vision.core.preprocessing import Preprocessing, one_size
from peft_vision.core.records import read_yaml
from peft_vision.exchange.timm_weights import check_loadable
from peft_vision.head.base import Head
from peft_vision.method.base import Method
from peft_vision.mixing.adapter_set import AdapterSet as AdapterSet
from peft_vision.models.adapter import Recipe, attach_adapter, write_adapter
from peft_vision.models.model import Model
from peft_vision.models.on_hub import ADAPTER, fetched
from peft_vision.objective.base import Objective
from peft_vision.runs.saved import open_saved

_YAML = (".yaml", ".yml")
_USUAL = {"method": "linear", "head": "linear", "data": "digits", "objective": "single_label"}
"""The options that give the fields that every component of a group has."""


def component_values(given: object, kind: type, group: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, `_target_` among them, of the `kind` that `given` stands for, overridden by `options`.

    `given`: the name of a file in conf/<group>/, the path of a user's YAML file, a component, or its class; a class
    takes the values that every `kind` has from a shipped option. Raise ConfigError if it is none of these, a file that
    begins from others, or its class cannot be found again by its name, which is what a saved adapter holds; raise
    ValueError for an unknown name.
    """
    if isinstance(given, str) and not given.endswith(_YAML):
        return complete({**option(group, given), **options})
    if isinstance(given, str | Path):
        values = read_yaml(Path(given).expanduser())
        if isinstance(values, dict) and "defaults" in values:
            raise ConfigError(
                f"{group}: {given} begins from other files (defaults), which only a command composes; write its values "
                "out, or give the class with its values"
            )
        if not isinstance(values, dict) or "_target_" not in values:
            raise ConfigError(f"{group}: {given} holds no _target_, the class to build")
    elif isinstance(given, type):
        shared = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
        common = option(group, _USUAL[group])
        values = {key: common[key] for key in common if key in shared}
        values["_target_"] = f"{given.__module__}.{given.__qualname__}"
    elif isinstance(given, kind):
        values = spelled(given)
    else:
        raise ConfigError(
            f"{group}: got {given!r}, should be a name in {CONFIG_DIR.name}/{group}, the path of a YAML file, a class "
            f"derived from {kind.__name__}, or one built"
        )
    values = complete({**values, **options}) if group == "method" else {**values, **options}
    _check_found(values["_target_"], given, group)
    build(values, kind, group)
    return values


def _check_found(target: Any, given: object, group: str) -> None:
    """Raise ConfigError if the dotted path `target` does not lead to the class of `given`."""
    cls = given if isinstance(given, type) else type(given)
    if isinstance(given, str | Path):
        return
    try:
        found = locate(target, group)
    except ConfigError:
        found = None
    if found is not cls:
        raise ConfigError(
            f"{group}: {cls.__qualname__} cannot be found again as {target}; define it at the top level of a module"
        )


def adapt(
    vit: VisionTransformer,
    *,
    method: str | Path | Method | type[Method],
    num_classes: int | Sequence[str],
    head: Mapping[str, object] | str | Path | Head | type[Head] | None = None,
    objective: str | Path | Objective | None = None,
    seed: int = 0,
    frozen_bits: Bits | None = None,
    **options: object,
) -> Model:
    """Return an `nn.Module`, images to logits, that tunes a copy of `vit`, on its device, by `method`: a name in
    `conf/method/`, the path of a YAML file like those with all values in it (no `defaults`), a class derived from
    `Method`, or an instance of one.

    `num_classes`: how many, or their names. `options` override the method's values (`num_prompts=50`). `head`
    overrides values of `conf/head/linear.yaml` (`{"norm": "batch"}`), or gives a head in one of the same four ways.
    `objective`: a name in `conf/objective/`, a YAML file, or an `Objective`; None: `single_label`, or `segmentation`
    with a head that predicts pixels; `model.criterion` is its loss and its metrics, and
    `model.criterion.fit(labels)` takes what it needs of the training labels. Images are (B, C, H, W): uint8, or
    floats normalised as the backbone's own data config says. The drop rates of `vit` (`drop_path_rate` and the like)
    act in training while anything besides the head trains. `frozen_bits`: 8 or 4, to hold the frozen matrices of the
    blocks in so many bits. `vit` itself is not changed. Raise ConfigError if an option is wrong, and ValueError for
    an unknown name."""
    classes = _class_names(num_classes, options)
    if frozen_bits not in (None, *get_args(Bits)):
        raise ConfigError(f"frozen_bits: got {frozen_bits!r}, should be 4, 8 or None")
    size = trunk_of(vit).image_size  # before anything is changed, since no family may match the model
    vit = copy.deepcopy(vit)
    vit.reset_classifier(0)
    head_values = _head_values(head)
    built_head = build(head_values, Head, "head")
    usual = "single_label" if built_head.reads == "features" else "segmentation"
    recipe = Recipe(
        method=component_values(method, Method, "method", options),
        head=head_values,
        objective=component_values(objective or usual, Objective, "objective", {}),
        classes=classes,
        preprocessing=_preprocessing(vit, size),
        backbone={"name": architecture(vit), "hash": weights_hash(vit)},
    )
    if frozen_bits is not None:
        recipe.backbone["frozen_bits"] = frozen_bits
    build(recipe.method, Method, "method").check()
    build(recipe.objective, Objective, "objective").check_head(built_head)
    device = next(vit.parameters()).device
    return recipe.assemble(vit, seed=seed).to(device)


def save(model: Model, path: str | Path) -> None:
    """Save what `model` tuned to a safetensors file."""
    write_adapter(model, path)


def load(path: str | Path, vit: VisionTransformer | None = None) -> Model:
    """Return the model that was saved, in evaluation mode and with identical logits, on a copy of the backbone it was
    trained on.

    `path` may also be the `adapter.safetensors` of a run, or hf-hub:owner/name[@revision] for a run that task=push put
    on the hub; without a network, the one in the hub's cache. `vit`: None builds the backbone that config.yaml beside
    the file says. Raise ConfigError if the hub, or that backbone, cannot be had. Raise ValueError if the file is not a
    valid adapter file, if it and `vit` do not belong together, or if `vit` computes something else than the backbone it
    was trained on. What the file says is checked before it is used, and no module is imported for it that does not use
    peft_vision.
    """
    if vit is None:
        return open_saved(_run_of(path), checkpoint=None, device=torch.device("cpu")).model
    if str(path).startswith(HUB):
        path = fetched(str(path)) / ADAPTER
    vit = copy.deepcopy(vit)
    vit.reset_classifier(0)
    return attach_adapter(vit, path)


def _run_of(path: str | Path) -> str:
    """Return the run of an adapter file, whose config.yaml says what the backbone is. Raise ValueError for a file that
    is not a run's own."""
    if str(path).startswith(HUB) or Path(path).is_dir():
        return str(path)
    if Path(path).name != ADAPTER:
        raise ValueError(
            f"{path} is not the {ADAPTER} of a run, whose config.yaml says its backbone; give the backbone"
        )
    return str(Path(path).parent)


@contextmanager
def merged(model: Model) -> Iterator[VisionTransformer]:
    """Merge the weights of `model` within the block, so that it is as fast as its backbone, and yield its timm model,
    which maps normalised images to features and whose `state_dict` is then plain timm's; afterwards everything is bit
    for bit as it was. What else timm's class computes (`forward_intermediates` and the like), a model of timm's does
    that has loaded the `state_dict`.

    Raise ValueError, and leave the model as it was, if what was added is not a change of weights, or changes weights
    that timm's model lacks.
    """
    if strangers := unmergeable(model.encoder):
        raise ValueError(f"{', '.join(strangers)}: no weight of a plain backbone computes that")
    names = plain_names(model.encoder)
    with merge.merged(model.encoder):
        check_loadable(model.encoder.vit.state_dict().keys(), names)
        plain = copy.copy(model.encoder.vit)
        plain.forward = model.encoder.forward  # timm's own does not know the layers in the places of its blocks
        yield plain


def _class_names(num_classes: int | Sequence[str], options: dict[str, object]) -> tuple[str, ...]:
    """Return the names of the classes; the option `classes` of earlier versions, beside their number, still gives
    them."""
    named = num_classes if isinstance(num_classes, list | tuple) else None
    if "classes" in options:
        warnings.warn("adapt(classes=...) is now num_classes=...", DeprecationWarning, stacklevel=3)
        named = options.pop("classes")
        if named is not None and len(named) != num_classes:
            raise ValueError(f"{len(named)} class names for num_classes={num_classes}")
    if named:
        return tuple(named)
    if type(num_classes) is not int or num_classes < 1:
        raise ConfigError(f"num_classes: got {num_classes!r}, should be a whole number, 1 or more, or names")
    return tuple(map(str, range(num_classes)))


def _head_values(head: object) -> dict[str, Any]:
    if head is None or isinstance(head, Mapping):
        return component_values("linear", Head, "head", head or {})
    return component_values(head, Head, "head", {})


def _preprocessing(vit: VisionTransformer, size: tuple[int, int] | None) -> Preprocessing:
    """Return the preprocessing that timm resolves for this model, which takes images of `size`, or of any if None."""
    config = resolve_data_config({}, model=vit)
    found = Preprocessing(
        size=one_size(*(size or config["input_size"][1:])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop=config["crop_pct"],
    )
    return found.with_channels(vit.in_chans)
