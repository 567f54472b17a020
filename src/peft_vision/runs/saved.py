"""This module opens a saved run again: its backbone, built as config.yaml says, with its adapter attached.

A saved run's folder holds config.yaml, of which `backbone` and `seed` are needed, and adapter.safetensors; it need not
come from a run on this machine, and hf-hub:owner/name is one on the hub. Nothing in it is unpickled.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peft_vision.backbone.load import Backbone, load_backbone
from peft_vision.backbone.source import FOLDER, HUB
from peft_vision.core.config import ConfigError, build
from peft_vision.core.identity import edited
from peft_vision.core.records import Unreadable, read_yaml
from peft_vision.core.trust import check_targets
from peft_vision.data.decode import Geometry
from peft_vision.features.store import TYPES
from peft_vision.head.base import Head
from peft_vision.method.base import Method
from peft_vision.mixing.adapter_set import AdapterSet
from peft_vision.models.adapter import Recipe, attach_adapter, read_adapter
from peft_vision.models.model import Model
from peft_vision.models.on_hub import ADAPTER, CONFIG, fetched
from peft_vision.objective.base import Objective
from peft_vision.runs.run import writing
from peft_vision.training.trainer import Trainer

_log = logging.getLogger("peft_vision")
_FILES = (CONFIG, ADAPTER)
_REMEDY = "checkpoint=FILE says where the weights of its backbone lie on this machine"
_NAMED = 3  # runs that an error names


@dataclass(frozen=True)
class Saved:
    """A saved run that was opened: `model` is in evaluation mode on the device asked for; `config` is config.yaml's;
    `home`: the folder that holds what is made of it by default, its own unless it is in the hub's cache."""

    folder: Path
    model: Model
    config: Mapping[str, Any]
    home: Path

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def recipe(self) -> Recipe:
        """Return the recipe in the adapter file, with classes and preprocessing."""
        return self.model.recipe

    @property
    def objective(self) -> Objective:
        """Return what the model learned."""
        return build(self.recipe.objective, Objective, "objective")

    def says(self, group: str, key: str) -> Any:
        """Return the value that config.yaml has for `group.key`, or None if it has none."""
        return _said(self.config, group, key)

    def output(self, out: str | None, default: str) -> Path:
        """Return the folder `out`, else `default` in `home`, and create it; raise ConfigError if that fails."""
        folder = self.home / default if out is None else Path(str(out)).expanduser().absolute()
        with writing(folder, key="out"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def warn_of_edits(self) -> None:
        """Warn of each class of the model whose code was edited since the run was trained."""
        recipes = ((self.recipe.method, Method), (self.recipe.head, Head))
        for name in edited(self.config, [build(recipe, kind, "run") for recipe, kind in recipes]):
            _log.warning(
                "run: %s was edited since %s was trained; what follows is the edited code's", name, self.folder.name
            )

    def geometry(self, resize: str | None) -> Geometry:
        """Return how pictures become the model's images. `resize`: squash or crop; None: the run's own. Raise
        ConfigError where config.yaml does not say that."""
        resize = resize or self.says("data", "resize")
        if resize not in ("squash", "crop"):
            raise ConfigError(
                f"task.resize: {self.folder}/config.yaml does not say how images were resized; "
                "set task.resize=squash or task.resize=crop"
            )
        preprocessing = self.recipe.preprocessing
        return Geometry(
            size=preprocessing.size,
            resize=resize,
            crop=preprocessing.crop,
            interpolation=preprocessing.interpolation,
            channels=preprocessing.channels,
            full_scale=self.says("data", "full_scale"),
        )

    def trainer(self, node: Mapping[str, Any]) -> Trainer:
        """Build the trainer that `node` of the command line describes, in the precision that config.yaml states if
        any."""
        precision = self.says("trainer", "precision")
        return build(node if precision is None else {**node, "precision": precision}, Trainer, "trainer")


def open_saved(folder: str, *, checkpoint: str | None, device: torch.device) -> Saved:
    """Open a saved run. `checkpoint`: where the backbone's weights are on this machine; None: where the run had them.

    Raise ConfigError if the folder is not a saved run, or its adapter does not belong on the backbone.
    """
    path, config = _checked(folder)
    vit = _loaded(config, path, checkpoint)
    with _explained():
        model = attach_adapter(vit, path / ADAPTER)
    saved = Saved(path, model.to(device), config, _home(folder, path))
    saved.warn_of_edits()
    observed, grid = _observed_types(path, config)
    model.round_observations_to(observed, grid=grid)
    return saved


def open_several(
    folders: Mapping[str, str], *, checkpoint: str | None, device: torch.device
) -> tuple[AdapterSet, dict[str, Saved]]:
    """Open saved runs, by the names of their adapters, on the backbone of the first. Raise ConfigError as `open_saved`
    does, and where the backbones differ."""
    checked = {name: _checked(folder) for name, folder in folders.items()}
    first, config = next(iter(checked.values()))
    adapters = AdapterSet(_loaded(config, first, checkpoint).to(device))
    opened: dict[str, Saved] = {}
    for name, (path, own_config) in checked.items():
        with _explained(f"one backbone serves all runs, that of {first.name}; {_REMEDY}"):
            model = adapters.add(name, path, rounded_to=_observed_types(path, own_config))
        opened[name] = Saved(path, model, own_config, _home(folders[name], path))
        opened[name].warn_of_edits()
    return adapters, opened


def _checked(folder: str) -> tuple[Path, Mapping[str, Any]]:
    """Return the path of a saved run's folder and the content of config.yaml. Raise ConfigError if the folder is not
    one, or its adapter cannot be read."""
    path = saved_folder(folder)
    config = read_config(path)
    with _explained():
        read_adapter(path / ADAPTER)  # before weights are loaded, which may take a download
    return path, config


def _loaded(config: Mapping[str, Any], path: Path, checkpoint: str | None) -> nn.Module:
    """Return the backbone of a run. Raise ConfigError, with what to set, where its weights cannot be had."""
    backbone = _backbone(config, path, checkpoint)
    try:
        return load_backbone(backbone, seed=config["seed"])
    except ConfigError as error:
        raise ConfigError(f"{str(error).splitlines()[0]}\n{_REMEDY}") from error


def _said(config: Mapping[str, Any], group: str, key: str) -> Any:
    """Return the value that a run's config has for `group.key`, or None if it has none."""
    if group not in config or not isinstance(config[group], dict):
        return None
    return config[group].get(key)


def _observed_types(folder: Path, config: Mapping[str, Any]) -> tuple[torch.dtype, torch.dtype]:
    """Return the floating types to which a run rounded what its frozen backbone observed, and grids of it. Raise
    ConfigError where config.yaml names another."""
    dtype = _said(config, "features", "dtype") or "fp32"  # a run without a store rounded nothing
    grid = _said(config, "features", "grid_dtype") or dtype
    for key, value in {"dtype": dtype, "grid_dtype": grid}.items():
        if not isinstance(value, str) or value not in TYPES:
            raise ConfigError(f"run: {folder}/config.yaml: features.{key}: got {value!r}, should be {', '.join(TYPES)}")
    return TYPES[dtype], TYPES[grid]


@contextmanager
def _explained(remedy: str = _REMEDY) -> Iterator[None]:
    """Raise a ConfigError for an adapter that cannot be read or does not fit, with the remedy for the latter."""
    try:
        yield
    except Unreadable as error:
        raise ConfigError(f"run: {error}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"run: {error}\n{remedy}") from error


def saved_folder(folder: str) -> Path:
    """Return the absolute path of a finished run's folder, downloaded where it is one of the hub; raise ConfigError if
    it is not one."""
    if folder.startswith(HUB):
        return fetched(folder, _FILES)
    path = Path(folder).expanduser().absolute()
    _check_files(path)
    return path


def _home(folder: str, path: Path) -> Path:
    """Return the folder for what is made of the run `folder`, which lies at `path`: its own, or, for a run of the hub,
    one of its name in the current folder."""
    return Path.cwd() / folder.rpartition("/")[2].partition("@")[0] if folder.startswith(HUB) else path


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"run: no folder {folder}")
    if (folder / "state.pt").exists() and not (folder / "result.json").exists():
        raise ConfigError(
            f"run: {folder} is not finished; start its command again, which goes on from the last saved epoch"
        )
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        inner = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
        held = f"; it holds folders of runs: {', '.join(inner[:_NAMED])}{', ...' if inner[_NAMED:] else ''}"
        raise ConfigError(
            f"run: no {' and no '.join(missing)} in {folder}, which every finished run has{held if inner else ''}"
        )


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the content of config.yaml in a saved run's folder; raise ConfigError unless it has the keys of a run."""
    path = folder / "config.yaml"
    try:
        config = read_yaml(path)
    except Unreadable as error:
        raise ConfigError(f"run: {error}") from error
    known = isinstance(config, dict) and {"backbone", "seed"} <= config.keys()
    if not known or not isinstance(config["backbone"], dict):
        raise ConfigError(f"run: {path}: must hold the keys of a run, backbone and seed at least")
    if type(config["seed"]) is not int or config["seed"] < 0:
        raise ConfigError(f"run: {path}: seed: got {config['seed']!r}, should be a whole number, 0 or more")
    return config


def _backbone(config: Mapping[str, Any], folder: Path, checkpoint: str | None) -> Backbone:
    node = dict(config["backbone"])
    if (
        checkpoint is not None
        and "name" in node
        and str(node["name"]).startswith(FOLDER)
        and Path(checkpoint).expanduser().is_dir()
    ):
        node["name"] = f"{FOLDER}{checkpoint}"
    elif checkpoint is not None:
        node["checkpoint"] = checkpoint
    try:
        check_targets(node, "backbone")
        return build(node, Backbone, "backbone")
    except ConfigError as error:
        raise ConfigError(f"run: {folder}/config.yaml: {error}") from error
