"""What options of groups alone decide of a config, composed once for all tests of a process.

Most commands of the tests choose the same options and set other values, and to compose the options takes Hydra most of
a tenth of a second. It is asked once for each choice of them, and sets the values of each command on a copy. With files
of the user's own it composes anew.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from unittest import mock

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from peft_vision.core.config import CONFIG_DIR

LIST_OF = config_loader_impl.create_defaults_list
CONFIG_OF = ConfigLoaderImpl._compose_config_from_defaults_list
MOST = 300  # configs of a third of a MiB
LISTS: dict[tuple, DefaultsList] = {}
CONFIGS: dict[int, DictConfig] = {}
"""By the id of the list of files, which `LISTS` keeps."""


def list_of(
    repo: IConfigRepository,
    config_name: str | None,
    overrides_list: list[Override],
    prepend_hydra: bool,
    skip_missing: bool,
) -> DefaultsList:
    """Return the files of a config and the overrides that are values."""
    sources = {source.provider: source.path for source in repo.get_sources()}
    if sources.keys() != {"hydra", "main", "schema"} or sources["main"].removeprefix("file://") != str(CONFIG_DIR):
        return LIST_OF(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    chosen, values = [], []
    for override in overrides_list:
        if not override.is_sweep_override():
            is_value = isinstance(override.value(), dict) or not repo.group_exists(override.key_or_group)
            (values if is_value else chosen).append(override)
    key = (config_name, tuple(override.input_line for override in chosen), prepend_hydra, skip_missing)
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
        CONFIGS[id(defaults)] = CONFIG_OF(loader, defaults, repo)
    return deepcopy(CONFIGS[id(defaults)])


@contextmanager
def composed_once() -> Iterator[None]:
    with patched(list_of, config_of):
        yield


@contextmanager
def composed_anew() -> Iterator[None]:
    """In the block Hydra does all by itself, for tests of what stands in its place."""
    with patched(LIST_OF, CONFIG_OF):
        yield


@contextmanager
def patched(list_of: Callable, config_of: Callable) -> Iterator[None]:
    with (
        mock.patch.object(config_loader_impl, "create_defaults_list", list_of),
        mock.patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", config_of),
    ):
        yield
