"""The command, run as a user runs it, or inside this process where starting Python would cost the most."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from logging import getLogger
from pathlib import Path
from unittest import mock

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from peft_vision import cli
from peft_vision.core import progress
from peft_vision.core.config import CONFIG_DIR
from preloaded import SOURCES, Forked

SMOKE = ("experiment=smoke", "method=linear")
IN_THIS_PROCESS = "hydra/launcher=basic"
ASKING = {"experiment", "task"}
"""The groups of which an option may ask for a sweep."""
COMPOSED_MODE = Hydra.get_mode
MODES: dict[tuple[str, ...], RunMode | None] = {}
"""None: the config asks for no mode, and Hydra goes by -m."""


@dataclass(frozen=True)
class Outcome:
    """What a shell would see."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """What was wrong, after checking that it was said as a person expects it."""
        assert self.code == 1, self
        assert self.err.startswith("peft-vision: "), self
        assert "Traceback" not in self.out + self.err, self
        return self.err.removeprefix("peft-vision: ").removesuffix("\n")


def call(*arguments: str, cwd: Path, reports: bool = False) -> Outcome:
    """`main()` with these arguments in `cwd`, without progress bars, which appear on a machine that is slow; nothing of
    it stays behind in this process. The runs of a sweep take place in it, unless `arguments` choose a launcher. Its
    report takes seconds, and is made where `reports`."""
    root = getLogger()
    handlers, level = root.handlers[:], root.level
    out, err = StringIO(), StringIO()
    if arguments[:1] not in (("completion",), ("new",)) and "hydra/launcher=" not in " ".join(arguments):
        arguments = (*arguments, IN_THIS_PROCESS)
    GlobalHydra.instance().clear()
    try:
        with (
            chdir(cwd),
            mock.patch.object(sys, "argv", ["peft-vision", *arguments]),
            mock.patch.dict(os.environ),
            mock.patch.object(progress, "QUIET_SECONDS", math.inf),
            mock.patch.object(Hydra, "get_mode", known_mode),
            nullcontext() if reports else mock.patch("peft_vision.sweep.points.close"),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        GlobalHydra.instance().clear()
        root.handlers[:] = handlers
        root.setLevel(level)
    return Outcome(code, out.getvalue(), err.getvalue())


def known_mode(hydra: Hydra, config_name: str, overrides: list[str]) -> RunMode | None:
    """Return the mode that the config asks for. Hydra composes the whole config for it, and then once more to run; here
    that is done once for all commands with the same task, experiment and options of Hydra: nothing else that is shipped
    asks for a mode."""
    sources = {source.provider for source in hydra.config_loader.get_search_path().get_path()}
    if "command-line" in sources or any("searchpath" in word for word in overrides):
        return COMPOSED_MODE(hydra, config_name, overrides)
    words = (config_name, *(word for word in overrides if chooses_option(word) and not is_shipped(word)))
    if words not in MODES:
        try:  # as COMPOSED_MODE, which does not tell a config that asks for no mode from one that does not compose
            config = hydra.compose_config(
                config_name=config_name,
                overrides=overrides,
                with_log_configuration=False,
                run_mode=RunMode.MULTIRUN,
                validate_sweep_overrides=False,
            )
        except Exception:  # said where Hydra composes it to run
            return None
        MODES[words] = config.hydra.mode
    return MODES[words]


def chooses_option(word: str) -> bool:
    """Whether an override is of Hydra itself or names an option of a group."""
    key = word.partition("=")[0].lstrip("+~").partition("@")[0]
    return key.startswith("hydra") or (CONFIG_DIR / key).is_dir()


@cache
def is_shipped(word: str) -> bool:
    """Whether an override chooses one option that is shipped and that cannot ask for a mode."""
    group, _, option = word.partition("=")
    return word == IN_THIS_PROCESS or (group not in ASKING and (CONFIG_DIR / group / f"{option}.yaml").is_file())


COMMAND = ("-m", "peft_vision.cli")


def command(*arguments: str, cwd: Path, fresh: bool = False, **variables: str) -> Outcome:
    """A process of its own, with `variables` in its environment, until it ends. `fresh` as for `start`."""
    process = start(*arguments, cwd=cwd, fresh=fresh, **variables)
    out, err = process.communicate(timeout=240)
    return Outcome(process.returncode, out, err)


def start(
    *arguments: str, cwd: Path, program: tuple[str, ...] = COMMAND, fresh: bool = False, **variables: str
) -> subprocess.Popen | Forked:
    """A process of its own, at work. `program`: what Python runs in place of the command. `fresh`: started as a shell
    does, so that it imports for itself, which takes seconds."""
    environment = {
        **os.environ,
        "HOME": str(cwd),
        "PYTHONPATH": SOURCES,
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    if not fresh and sys.platform == "linux":
        return Forked([*program, *arguments], cwd, environment)
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen | Forked) -> None:
    """Until it holds, as long as `process` is at work."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def experiment(folder: Path, name: str, text: str) -> tuple[str, ...]:
    """Writes one of the user's own, and says what finds it in `folder`."""
    file = folder / "mine" / "experiment" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _global_\n{text}")
    return "--config-dir", "mine", f"experiment={name}"


def run_folder(runs: Path) -> Path:
    """The folder of the one run in there."""
    (folder,) = [path for path in runs.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return folder


def results(folder: Path) -> list[Path]:
    """Every result below `folder`."""
    return sorted(folder.rglob("result.json"))
