"""The command `peft-vision`: Hydra composes a config, the task in it does the work.

Nothing here imports torch, so that help and shell completion answer at once.
"""

import logging
import os
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peft_vision.config import CONFIG_DIR, ConfigError, build
from peft_vision.wording import reword


USAGE_ERROR = 2  # argparse's exit code, after it has printed the usage


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def run(config: DictConfig) -> float | None:
    """One config, from the command line or one point of a sweep."""
    from peft_vision.task.base import Task

    logging.getLogger("peft_vision").setLevel(logging.INFO)
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if "task" not in plain:
        raise ConfigError("task: missing; write task=train")
    choices = {group: option for group, option in HydraConfig.get().runtime.choices.items() if option}
    try:
        return build(plain["task"], Task, "task").run(plain, choices)
    except ConfigError as error:
        if HydraConfig.get().mode is RunMode.RUN:
            _fail(str(error))
        raise  # a sweep goes on with its other points


def main() -> None:
    """Exit code 0, or 1 after one or two lines on standard error that say what was wrong."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print in its own words
    try:
        run()
    except ConfigError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(reword(error))
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from the last saved epoch")
    except SystemExit as error:
        if error.code == USAGE_ERROR:
            _fail("write group=option or key=value, such as method=linear optimizer.lr=0.1")
        raise


def _fail(message: str) -> None:
    print(f"peft-vision: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
