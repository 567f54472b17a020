"""The command, run as a user runs it, or inside this process where starting Python would cost the most."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from logging import getLogger
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

import peft_vision
from peft_vision import cli
from peft_vision.core import progress

SMOKE = ("experiment=smoke", "method=linear")


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
    if not any(word.startswith("hydra/launcher=") for word in arguments):
        arguments = (*arguments, "hydra/launcher=basic")
    GlobalHydra.instance().clear()
    try:
        with (
            chdir(cwd),
            mock.patch.object(sys, "argv", ["peft-vision", *arguments]),
            mock.patch.dict(os.environ),
            mock.patch.object(progress, "QUIET_SECONDS", math.inf),
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


def command(*arguments: str, cwd: Path, **variables: str) -> Outcome:
    """A process of its own, with `variables` in its environment, until it ends."""
    process = start(*arguments, cwd=cwd, **variables)
    out, err = process.communicate(timeout=240)
    return Outcome(process.returncode, out, err)


def start(
    *arguments: str, cwd: Path, program: tuple[str, ...] = ("-m", "peft_vision.cli"), **variables: str
) -> subprocess.Popen:
    """A process of its own, at work. `program`: what Python runs in place of the command."""
    environment = {
        **os.environ,
        "HOME": str(cwd),
        "PYTHONPATH": str(Path(peft_vision.__file__).parents[1]),
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
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
