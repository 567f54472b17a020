"""This module checks for Optuna, which only a search needs."""

from importlib.util import find_spec

from peft_vision.core.config import ConfigError


def check_optuna() -> None:
    """Raise ConfigError if Optuna is not installed, without importing it."""
    if find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper: a search needs Optuna; pip install 'peft-vision[search]'")
