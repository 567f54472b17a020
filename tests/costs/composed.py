"""Experiments as a command composes them."""

from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from peft_vision.core.composition import Request
from peft_vision.core.config import CONFIG_DIR
from peft_vision.runs.experiment import Experiment


def composed(*overrides: str) -> Experiment:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", [*overrides], return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    request = Request.of(config, choices)
    return Experiment.of(request.config, request.choices)
