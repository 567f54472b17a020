"""This module is the command `peft-vision`: Hydra composes a config, and the task in it does the work.

Importing it does not import torch, so that help answers at once. `__main__.py` is before it, for what a shell asks.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from peft_vision.core.collector import imports_unscanned
from peft_vision.core.completion import SHELLS, answer, script
from peft_vision.core.composition import Request
from peft_vision.core.config import CONFIG_DIR, Busy, ConfigError, Pruned, build
from peft_vision.core.extension_files import write_extension
from peft_vision.core.guide import (
    FIRST_PAGE,
    HOMELESS,
    fault,
    groups_help,
    is_homeless,
    reword,
    task_help,
    version_line,
)
from peft_vision.core.output import PRINTABLE, complain, say
from peft_vision.core.process_variables import check_alone, ranks, speaks
from peft_vision.core.stopping import STOPPED, Stopped, at_once, hold

USAGE = "write group=option or key=value, such as method=linear optimizer.lr=0.1"
USAGE_ERROR = 2  # argparse's exit code, after it has printed its own message


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def run(config: DictConfig) -> float | None:
    """Run the task of one config, which comes from the command line or is one point of a sweep."""
    logger = logging.getLogger("peft_vision")
    logger.addFilter(PRINTABLE)
    logger.setLevel(logging.INFO if speaks() else logging.WARNING)
    settings = HydraConfig.get()
    sweeps = settings.mode is RunMode.MULTIRUN
    try:
        ranks()  # raises ConfigError for incomplete variables, whatever the task
        asked = Request.of(config, settings.runtime.choices)
        with imports_unscanned():
            from peft_vision.task.base import Task

            task = build(asked.config["task"], Task, "task").placed(in_sweep=sweeps)
        if sweeps:
            check_alone("a sweep starts its runs itself")
        if not task.shares_work:
            check_alone(f"task={asked.choices['task']} works in one process")
        with _memory_named():
            return task.run(asked.config, asked.choices)
    except Exception as error:
        ours = isinstance(error, ConfigError | OmegaConfBaseException) or is_homeless(error)
        if not sweeps:
            if ours:  # here, because Hydra would add its own message
                _fail(fault(error), getattr(error, "exit_code", 1))
            raise
        if not ours:
            complain(traceback.format_exc())
        if not isinstance(error, Busy | Pruned):
            _say(f"{' '.join(settings.overrides.task)}: {fault(error)}")
        raise  # to the sweeper, which goes on with the other points and lists the faults at the end


@contextmanager
def _memory_named() -> Iterator[None]:
    """Raise a ConfigError of two lines if the block runs out of memory and has not said itself what to set."""
    try:
        yield
    except RuntimeError as error:
        from peft_vision.core.device_memory import is_out_of_memory  # here, because it imports torch

        if not is_out_of_memory(error):
            raise
        told = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"device: no memory left ({told})\nset a smaller trainer.batch_size and trainer.eval_batch_size, "
            "trainer.accumulate=auto, features.device_memory_gib=0, data.device_memory_gib=0 or another device"
        ) from error


def _check_working_folder() -> None:
    """Raise ConfigError if the current folder was deleted or this user may not enter it, so that relative paths lead
    nowhere."""
    try:
        os.stat(os.getcwd())
        os.stat(".")
    except OSError as error:
        raise ConfigError(f"cannot work in the current folder ({error.strerror}); change to another folder") from error


def main() -> None:
    """Run the command. The exit code is 0; after a fault, named by a line or two on standard error, it is mostly 1."""
    hold()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises exceptions instead of printing them
    try:
        _check_working_folder()
        _answer(sys.argv[1:])
        sys.argv[1:] = _readable(sys.argv[1:])
        _show_groups(sys.argv[1:])
        with at_once():
            run()
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        _fail(reword(error), getattr(error, "exit_code", 1))
    except (YAMLError, UnicodeDecodeError) as error:
        _fail(f"cannot read a config: {' '.join(str(error).split())}")
    except RuntimeError as error:
        if not is_homeless(error):
            raise
        _fail(fault(error))
    except ValueError as error:
        if str(error).startswith("Only one of --run"):
            _fail(f"{error}; --cfg shows a sweep's config without -m")
        if not str(error).startswith("Config group override"):
            raise
        _fail(f"a group takes the name of one of its options; {USAGE}")
    except (KeyboardInterrupt, Stopped) as error:
        _say(STOPPED)
        sys.exit(error.exit_code if isinstance(error, Stopped) else 1)
    except BrokenPipeError:  # `peft-vision --help | head`: the reader has closed the pipe, which is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit as error:
        if error.code == USAGE_ERROR and sys.argv[1:]:
            _fail(USAGE)
        raise


def _answer(arguments: list[str]) -> None:
    """Print and exit if the command asks only for a version, the help of a task or what a shell needs, begins an
    extension, or has no arguments at all."""
    if not arguments:
        complain(FIRST_PAGE)
        sys.exit(USAGE_ERROR)
    if arguments[0] in _WORDS:
        _WORDS[arguments[0]](arguments[1:])
        sys.exit(0)
    if "--version" in arguments:
        say(version_line())
        sys.exit(0)
    tasks = [word.removeprefix("task=") for word in arguments if word.startswith("task=")]
    if {"--help", "-h"} & set(arguments) and tasks and (text := task_help(tasks[-1])) is not None:
        say(text)
        sys.exit(0)


def _print_completion(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise ConfigError(
            f'completion: name a shell, {", ".join(SHELLS)}; for bash: eval "$(peft-vision completion bash)"'
        )
    say(script(arguments[0]))


def _begin_extension(arguments: list[str]) -> None:
    for line in write_extension(arguments):
        say(line)


_WORDS = {"complete": answer, "completion": _print_completion, "new": _begin_extension}
"""The words that a command may begin with in the place of overrides and flags, and the functions that answer."""


def _show_groups(arguments: list[str]) -> None:
    """Print the help and exit, if the command asks for it; leave other configs than ours, and a folder of configs that
    is missing, to Hydra."""
    asked = get_args_parser().parse_args(arguments)
    shipped = asked.config_name is None and asked.config_path is None
    if asked.help and shipped and (asked.config_dir is None or Path(asked.config_dir).is_dir()):
        say(groups_help(asked.overrides, asked.config_dir))
        sys.exit(0)


def _readable(arguments: list[str]) -> list[str]:
    """Return the arguments as argparse and Hydra can read them: flags first, for `method=linear -m seed=0,1`, and the
    home folder in place of `~`. Raise ConfigError for unknown flags."""
    if "-sc" in arguments and (typed := re.search(r"--config-dir[= ](\S+)", os.environ.get("COMP_LINE", ""))):
        arguments = [*arguments, f"--config-dir={typed[1]}"]  # completion offers the user's own options too
    parsed, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if unknown:
        raise ConfigError(f"unknown {unknown[0]}; {USAGE}")
    if parsed.config_dir is not None and not parsed.shell_completion:
        _name_hidden(Path(parsed.config_dir).expanduser())
    flags = [word for word in arguments if word not in parsed.overrides]
    home = os.path.expanduser("~")
    if home == "~" and any("=~/" in word for word in arguments):
        raise ConfigError(HOMELESS)
    words = [*flags, *_of_own_data(_of_peft(_several(parsed.overrides)))]
    return [re.sub("(?<==)~(?=/)", home, word) for word in words]


def _several(overrides: list[str]) -> list[str]:
    """Return the overrides, with tracker=[a,b] as the option `several` and its parts: a group has one option, and a
    list of names is what people write."""
    named = [re.fullmatch(r"tracker=(\[.*\])", word) for word in overrides]
    spelled = [
        ["tracker=several", f"tracker.parts={found[1]}"] if found else [word]
        for word, found in zip(overrides, named, strict=True)
    ]
    return [word for words in spelled for word in words]


def _of_peft(overrides: list[str]) -> list[str]:
    """Return the overrides, with `++` before `method.config`: beside the values in a file of hf_peft stand those of any
    tuner, which its config class in peft knows."""
    return [f"++{word}" if re.match(r"method\.(parts\.\w+\.)?config[.=]", word) else word for word in overrides]


def _of_own_data(overrides: list[str]) -> list[str]:
    """Return the overrides, with `++` before `data.key=value` in task=evaluate unless other data are chosen: such
    values are for the data of a saved run, whose keys are in its config.yaml, not in the default data set's."""
    if "task=evaluate" not in overrides or any(re.match(r"(data|experiment)=", word) for word in overrides):
        return overrides
    return [f"++{word}" if re.match(r"data\.[\w.]+=", word) else word for word in overrides]


def _name_hidden(folder: Path) -> None:
    """Say which files of the user's config folder Hydra will not read, because shipped ones of that name come first,
    and which refer to shipped ones by a name of before."""
    for file in sorted(folder.rglob("*.yaml")):
        if (CONFIG_DIR / file.relative_to(folder)).is_file():
            _say(f"{file} is not read: peft-vision ships a file of that name; give it another name")
        elif file.is_file() and (old := re.search(rb"- /((data|ood|tune)_defaults)@", file.read_bytes())):
            name, kind = old[1].decode(), old[2].decode()
            _say(f"{file}: /{name} is /shared/defaults/{kind} now; the old name still works")


def _say(message: str) -> None:
    complain(f"peft-vision: {message}")


def _fail(message: str, exit_code: int = 1) -> NoReturn:
    _say(message)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
