"""This module finds a model by its name: what timm's registry says of it, or the config.json of a page of the hub or of
a folder, in the format that timm writes.

    vit_base_patch16_224.orig_in21k    weights that timm knows
    hf-hub:owner/name[@revision]       any page of the hub with timm's config.json and weights
    local-dir:FOLDER                   a folder with the same files

A config.json names an architecture of timm and may hold `model_args`, the further arguments that it is built with.
"""

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import timm
from timm import layers
from timm.models import PretrainedCfg
from timm.models._hub import load_model_config_from_path

from peft_vision.backbone.hub import address_file, alternatives, hub_file
from peft_vision.core.config import ConfigError, nearest
from peft_vision.core.identity import absolute
from peft_vision.core.output import one_line, shown
from peft_vision.core.records import CONFIG, RECORD, Unreadable, read_json

HUB, FOLDER = "hf-hub:", "local-dir:"
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
_OLD_HUB = "hf_hub:"  # as older versions of timm wrote it
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth", "open_clip_model.safetensors")
_WEIGHTS += ("open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")
_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".bin")  # in timm's order, as are the names above
_GATED_MLP = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_OF_THE_PAGE = {"paige-ai/Virchow": _GATED_MLP, "paige-ai/Virchow2": _GATED_MLP}
"""The arguments that a page of the hub gives as Python classes, which no config.json can hold."""
_SET_HERE = ("num_classes", "img_size", "in_chans", "drop_path_rate")  # arguments that the config of a run decides


def without_places(value: Any) -> Any:
    """Return a value of a config, at any depth, with only the last part of absolute paths and of those in the home
    folder."""
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    if not isinstance(value, str):
        return value
    prefix = FOLDER if value.startswith(FOLDER) else ""
    path = value.removeprefix(prefix)
    is_place = os.path.isabs(path) or path.startswith("~") or _OF_WINDOWS.match(path)
    return prefix + re.split(r"[\\/]", path.rstrip("\\/"))[-1] if is_place else value


@dataclass(frozen=True)
class ModelSource:
    """A model that was found by its name. `registered`: its name in timm's registry; `config`: timm's record of the
    weights; `arguments`: what config.json says it is built with; `folder`: where its files are, if it is a folder."""

    name: str
    registered: str
    config: PretrainedCfg
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def in_registry(self) -> bool:
        """Return whether timm knows these weights by the name."""
        return self.folder is None and not self.name.startswith(HUB)

    def check_weights(self) -> None:
        """Raise ConfigError if it is known, without a request to the hub, that there are no weights."""
        if self.folder is not None:
            self.weights_file()
        elif not self.config.hf_hub_id and not self.config.url:
            raise ConfigError(
                f"backbone.pretrained: there are no weights for {self.name} ({tagged(self.name)}); "
                "backbone.checkpoint=FILE reads yours, backbone.pretrained=false begins with random ones"
            )

    def weights_file(self) -> Path:
        """Return the local path of the weights, after a download where that is needed. ConfigError if there are
        none."""
        if self.folder is None and not self.config.hf_hub_id:
            return address_file(self.name, self.config.url)
        if self.folder is None:
            return hub_file(self.name, self.config.hf_hub_id, alternatives(self.config.hf_hub_filename))
        by_name = (self.folder / name for name in _WEIGHTS)
        by_ending = (path for ending in _ENDINGS for path in sorted(self.folder.glob(f"*{ending}")))
        found = next((path for path in (*by_name, *by_ending) if path.is_file()), None)
        if found is None:
            raise ConfigError(
                f"backbone.name: no weights in {shown(self.folder)}, such as {_WEIGHTS[0]} or {_WEIGHTS[1]}; "
                "backbone.pretrained=false begins with random ones"
            )
        return found

    def built_with(self) -> dict[str, Any]:
        """Return the keywords for timm.create_model that stand for the record of these weights."""
        return {} if self.in_registry else {"pretrained_cfg": self.config.to_dict()}


def find(name: str) -> ModelSource:
    """Return the model called `name`. Raise ConfigError if timm, the hub or the folder has no such model, or if this
    version of timm does not have the architecture that config.json names."""
    if name.startswith(_OLD_HUB):
        name = HUB + name.removeprefix(_OLD_HUB)
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER)).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"backbone.name: no folder {shown(folder.absolute())}")
        if not (folder / "config.json").is_file():
            raise ConfigError(f"backbone.name: no config.json in {shown(folder.absolute())}, which says what to build")
        return _described(name, folder / "config.json", folder=folder)
    if name.startswith(HUB):
        return _described(name, hub_file(name, name.removeprefix(HUB), ("config.json",)), folder=None)
    if "/" in name or ":" in name:
        raise ConfigError(
            f"backbone.name: {name!r} is no name in timm; write {HUB}{name} for a model of the hub, "
            f"or {FOLDER}{name} for a folder"
        )
    if not timm.is_model(name.partition(".")[0]):
        known = timm.list_pretrained() if "." in name else timm.list_models()
        raise ConfigError(f"backbone.name: timm has no model {name!r}{nearest(name, known)}")
    return ModelSource(name, name, _registry_config(name))


def absolute_name(name: str) -> str:
    """Return the name; the folder of a local-dir: name as an absolute path, so that a run in another folder has another
    identity."""
    return FOLDER + absolute(name.removeprefix(FOLDER)) if name.startswith(FOLDER) else name


def resolved(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of timm in which `mlp_layer` is a class: a config can only hold the name of one, of
    timm.layers. Other layers timm itself finds by name."""
    given = dict(arguments)
    if isinstance(name := given.get("mlp_layer"), str):
        found = getattr(layers, name, None)
        if not isinstance(found, type) and not callable(found):
            raise ConfigError(
                f"backbone.architecture.mlp_layer: timm.layers has no {name!r}{nearest(name, dir(layers))}"
            )
        given["mlp_layer"] = found
    return given


def tagged(name: str) -> str:
    """Return in words which weights timm has of the architecture in `name`."""
    known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    return f"it has {', '.join(known) or 'none at all'}"


def _described(name: str, path: Path, *, folder: Path | None) -> ModelSource:
    """Return the model that a config.json describes, read as timm reads it. ConfigError if it does not describe one."""
    try:
        held = read_json(path, replace(RECORD, depth=CONFIG.depth))
    except Unreadable as error:
        raise ConfigError(f"backbone.name: {error}") from error
    if not isinstance(held, dict) or not isinstance(held.get("architecture"), str):
        others = held.get("architectures") if isinstance(held, dict) else None
        kind = f"it is of another library, for {one_line(others)}" if others else "it names no architecture"
        raise ConfigError(f"backbone.name: {shown(path)} is no config.json of timm: {kind}")
    if "model_args" in held and "pretrained_cfg" not in held:  # timm's old format, which has no such key
        raise ConfigError(f"backbone.name: {shown(path)} is no config.json of timm: model_args and no pretrained_cfg")
    try:
        values, architecture, found = load_model_config_from_path(path.parent)
        arguments = {key: value for key, value in dict(found or {}).items() if key not in _SET_HERE}
        known = {of_field.name for of_field in fields(PretrainedCfg)}
        config = PretrainedCfg(**{key: value for key, value in values.items() if key in known})
        if strangers := sorted(arguments.keys() & inspect.signature(timm.create_model).parameters.keys()):
            raise ValueError(f"model_args has {', '.join(strangers)}, which is no argument of a model")
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ConfigError(f"backbone.name: {shown(path)} is no config.json of timm: {one_line(error)}") from error
    if not timm.is_model(architecture):
        raise ConfigError(
            f"backbone.name: timm {timm.__version__} has no architecture {one_line(architecture)!r}, "
            f"which the config.json of {one_line(name)} names; a newer version of timm may have it"
        )
    page = name.removeprefix(HUB)
    arguments = {**_OF_THE_PAGE.get(page.partition("@")[0], {}), **arguments}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    located = {"hf_hub_id": page, "source": "hf-hub", "file": None} if folder is None else {}
    config = replace(config, architecture=architecture, **located)
    return ModelSource(name, architecture, config, arguments, folder)


def _registry_config(name: str) -> PretrainedCfg:
    """Return timm's record of the weights `name`. Raise ConfigError for unknown weights, and for old names without a
    tag, which do not say which weights they mean."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        stem, _, tag = name.partition(".")
        raise ConfigError(f"backbone.name: timm has no weights {tag!r} of {stem}; {tagged(stem)}") from error
    if config is not None:
        return config
    known = timm.list_pretrained(f"{name.removesuffix('_in21k')}.*in21k") if name.endswith("_in21k") else []
    remedy = f"; write {' or '.join(known)}" if known else nearest(name, timm.list_pretrained())
    raise ConfigError(f"backbone.name: {name} is an old name that hides which weights it means{remedy}")
