"""Optuna, which only a search needs."""

from importlib.util import find_spec

from peft_vision.config import ConfigError


def check_optuna() -> None:
    """ConfigError where it is not installed; imports nothing."""
    if find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper: a search needs Optuna; pip install 'peft-vision[search]'")
