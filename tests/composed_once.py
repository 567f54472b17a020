"""What options of groups alone decide of a config, composed once for all tests of a process.

Most commands of the tests choose the same options and set other values, and to compose the options takes Hydra most of
a tenth of a second. It is asked once for each choice of them, and sets the values of each command on a copy. With other
texts in files of the user's own it composes anew. Another choice shares most of its files with those before: each file
of the package is read once, each text and each reference to another value is parsed once, and the names of all choices
are only gathered where a file refers to one. Copies are made by pickle, in a third of the time of deepcopy.
"""

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, TypeVar
from unittest import mock

import yaml
from hydra._internal import config_loader_impl, config_repository, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra.core import utils
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, base, omegaconf
from omegaconf._utils import get_yaml_loader

from peft_vision.core.config import CONFIG_DIR

LIST_OF = config_loader_impl.create_defaults_list
CONFIG_OF = ConfigLoaderImpl._compose_config_from_defaults_list
NAMES_OF = defaults_list._create_interpolation_map
TREE_OF = base.parse
READ = ConfigRepository.load_config
MOST = 300  # configs of a third of a MiB, packed in a fifteenth of that
T = TypeVar("T")
LISTS: dict[tuple, DefaultsList] = {}
CONFIGS: dict[int, bytes] = {}
"""By the id of the list of files, which `LISTS` keeps."""
FILES: dict[tuple[str, str, str], bytes] = {}
"""By where a file is from, which differs in what Hydra is told of it, by folder and name."""


def list_of(
    repo: IConfigRepository,
    config_name: str | None,
    overrides_list: list[Override],
    prepend_hydra: bool,
    skip_missing: bool,
) -> DefaultsList:
    """Return the files of a config and the overrides that are values."""
    sources = {source.provider: source.path.removeprefix("file://") for source in repo.get_sources()}
    if sources.get("main") != str(CONFIG_DIR):
        return LIST_OF(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    own = [path for provider, path in sources.items() if provider not in ("hydra", "main", "schema")]
    texts = [(file, file.read_bytes()) for path in own for file in sorted(Path(path).rglob("*.yaml"))]
    chosen, values = [], []
    for override in overrides_list:
        if not override.is_sweep_override():
            is_value = isinstance(override.value(), dict) or not repo.group_exists(override.key_or_group)
            (values if is_value else chosen).append(override)
    key = (config_name, tuple(override.input_line for override in chosen), prepend_hydra, skip_missing, *own, *texts)
    if key not in LISTS:
        if len(LISTS) == MOST:
            LISTS.clear()
            CONFIGS.clear()
        LISTS[key] = LIST_OF(repo, config_name, chosen, prepend_hydra, skip_missing)
    return replace(LISTS[key], config_overrides=values)


def config_of(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """Return the config of these files."""
    if all(defaults is not known.defaults for known in LISTS.values()):
        return CONFIG_OF(loader, defaults, repo)
    if id(defaults) not in CONFIGS:
        CONFIGS[id(defaults)] = pickle.dumps(CONFIG_OF(loader, defaults, repo), pickle.HIGHEST_PROTOCOL)
    return pickle.loads(CONFIGS[id(defaults)])


def names_of(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig | None:
    """Return the names of all choices, by which Hydra resolves those of `defaults` that refer to others."""
    if any(default.is_interpolation() for default in defaults):
        return NAMES_OF(overrides, defaults, self_added)
    return None


def read(repo: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Return a file's values, of which those of the package and of Hydra's own stay as they are."""
    source = repo._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or (source.scheme() == "file" and source.path != str(CONFIG_DIR)):
        return READ(repo, config_path)
    key = (source.provider, source.full_path(), config_path)
    if key not in FILES:
        FILES[key] = pickle.dumps(READ(repo, config_path), pickle.HIGHEST_PROTOCOL)
    return pickle.loads(FILES[key])


@cache
def parsed_once(text: str) -> bytes:
    return pickle.dumps(yaml.load(text, Loader=get_yaml_loader()), pickle.HIGHEST_PROTOCOL)


def parsed(source: str | IO, Loader: type) -> Any:
    """Return what a text is for OmegaConf, in objects of its own. What is wrong with a file is said with its name."""
    if isinstance(source, str):
        return pickle.loads(parsed_once(source))
    begin = source.tell()
    try:
        return pickle.loads(parsed_once(source.read()))
    except yaml.YAMLError:
        source.seek(begin)
        return yaml.load(source, Loader=Loader)


def copied(whole: T) -> T:
    return pickle.loads(pickle.dumps(whole, pickle.HIGHEST_PROTOCOL))


tree_of = cache(TREE_OF)
COPIES = SimpleNamespace(copy=copy, deepcopy=copied)


@contextmanager
def composed_once() -> Iterator[None]:
    with ExitStack() as patches:
        for patch in (
            mock.patch.object(config_loader_impl, "create_defaults_list", list_of),
            mock.patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", config_of),
            mock.patch.object(defaults_list, "_create_interpolation_map", names_of),
            mock.patch.object(ConfigRepository, "load_config", read),
            mock.patch.object(omegaconf, "yaml", SimpleNamespace(load=parsed, dump=yaml.dump)),
            mock.patch.object(base, "parse", tree_of),
            mock.patch.object(utils, "copy", COPIES),
            mock.patch.object(config_repository, "copy", COPIES),
        ):
            patches.enter_context(patch)
        yield


@contextmanager
def composed_anew(*, parses: bool = True) -> Iterator[None]:
    """In the block Hydra does all by itself, for tests of what stands in its place; unless it `parses`, texts are still
    parsed once."""
    with ExitStack() as patches:
        for patch in (
            mock.patch.object(config_loader_impl, "create_defaults_list", LIST_OF),
            mock.patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", CONFIG_OF),
            mock.patch.object(defaults_list, "_create_interpolation_map", NAMES_OF),
        ):
            patches.enter_context(patch)
        if parses:
            patches.enter_context(mock.patch.object(omegaconf, "yaml", yaml))
            patches.enter_context(mock.patch.object(base, "parse", TREE_OF))
            patches.enter_context(mock.patch.object(ConfigRepository, "load_config", READ))
        yield
