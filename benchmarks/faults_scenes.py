"""This module defines the scenes that `faults.py` damages: a command, and the folder in which it begins."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from peft_vision.runs.run import Run

Command = Callable[..., Any]
TRAIN = ("experiment=smoke", "data.workers=0", "trainer.save_seconds=0", "backbone.architecture.embed_dim=32")
LINEAR = (*TRAIN, "method=linear")
LORA = (*TRAIN, "method=lora", "optimizer.lr=0.01")
PICTURES = (*TRAIN, "data=image_folder", "data.path=digits", "data.train_size=null", "data.val_fraction=0.25")
LP_FT = (*PICTURES, "method=lp_ft", "probe=lbfgs", "probe.C=[1e-2,1]", "optimizer.lr=1e-3")
OOD = (*LP_FT, "ood=image_folder", "ood.image_folder.path={inverted: inverted}")
OOD = (*OOD, "interpolation=wise_ft", "interpolation.alphas=[0,1]")
TUNE = ("-m", "hydra/sweeper=tune", *LINEAR, "optimizer.lr=1e-3,1e-2", "hydra.sweeper.seeds=[0]")
TUNE = (*TUNE, "hydra/launcher=basic", "hydra.sweeper.report=null")
OF_A_RUN = ("result.json", "adapter.safetensors", "probe.safetensors", "config.yaml", "metrics.jsonl", "ood.json")


@dataclass(frozen=True)
class Scene:
    """A command and its folder. `prepare` fills the folder; `files`: patterns of the files that are damaged there, one
    for each pattern; `tolerates`: files that a finished run is served without, or with whatever they hold if they can
    be read. `reads`: whether the command leaves the files as they are. `writes`: whether kills and full disks are
    tried."""

    name: str
    command: tuple[str, ...]
    prepare: Callable[[Path, Command], object]
    files: tuple[str, ...] = ()
    tolerates: tuple[str, ...] = ()
    reads: bool = False
    writes: bool = True


def digits(folder: Path) -> None:
    """Write three classes of digits as folders of pictures: to train and test on, and the test pictures inverted."""
    data = load_digits()
    for label in range(3):
        for number, index in enumerate((data.target == label).nonzero()[0][:18].tolist()):
            picture = Image.fromarray((data.images[index] * 15).astype("uint8"))
            parts = {"digits/train": picture} if number < 12 else {"digits/test": picture}
            parts |= {"inverted": ImageOps.invert(picture)} if number >= 12 else {}
            for part, image in parts.items():
                (folder / part / str(label)).mkdir(parents=True, exist_ok=True)
                image.save(folder / part / str(label) / f"{index}.png")


def done(*commands: tuple[str, ...]) -> Callable[[Path, Command], None]:
    """Return a function that writes the pictures and runs these commands, each of which must succeed."""

    def prepare(folder: Path, command: Command) -> None:
        digits(folder)
        for arguments in commands:
            outcome = command(arguments, folder)
            assert outcome.code == 0, outcome.said

    return prepare


def saved(folder: Path, command: Command) -> None:
    """Prepare a finished run and give it a fixed name."""
    done(LORA)(folder, command)
    (run,) = (folder / "runs").glob("lora-*")
    run.rename(folder / "runs" / "the_run")


def stopped(arguments: tuple[str, ...], states: int) -> Callable[[Path, Command], None]:
    """Return a function that writes the pictures and runs a command that is killed after this many saved states."""

    def prepare(folder: Path, command: Command) -> None:
        digits(folder)

        def begin() -> None:
            write, left = Run.write_state, [states]

            def write_and_die(run: Run, state: dict) -> None:
                write(run, state)
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            Run.write_state = write_and_die

        outcome = command(arguments, folder, begin)
        assert outcome.code == 137, outcome.said

    return prepare


def of_run(*names: str) -> tuple[str, ...]:
    return tuple(f"runs/*/{name}" for name in names)


SAVED = of_run("adapter.safetensors", "config.yaml")
SCENES = (
    Scene("train", LINEAR, done()),
    Scene("train lp_ft", LP_FT, done()),
    Scene(
        "resume",
        LP_FT,
        stopped(LP_FT, 3),
        (*of_run("state.pt", "metrics.jsonl", "config.yaml", "probe.safetensors"), "store/*.safetensors"),
    ),
    Scene("store", (*LINEAR, "seed=0", "optimizer.lr=0.5"), done(LINEAR), ("store/*.safetensors",), writes=False),
    Scene(
        "ood",
        OOD,
        done(LP_FT),
        of_run("adapter.safetensors", "probe.safetensors", "config.yaml"),
        ("probe.safetensors",),
        reads=True,
    ),
    Scene("done", OOD, done(OOD), of_run(*OF_A_RUN), OF_A_RUN),
    Scene("evaluate", ("task=evaluate", "run=runs/the_run", "data=digits"), saved, SAVED, reads=True),
    *(
        Scene(f"export {form}", ("task=export", "run=runs/the_run", f"task.format={form}"), saved, SAVED, reads=True)
        for form in ("timm", "peft", "adapter")
    ),
    Scene("predict", ("task=predict", "run=runs/the_run", "images=inverted"), saved, SAVED, reads=True),
    Scene("tune", TUNE, done()),
    Scene("tuned", TUNE, done(TUNE), of_run("choice.json", "result.json"), ("choice.json", "result.json")),
    Scene(
        "report", ("task=report", "runs=runs", "out=page"), done(LORA, LINEAR), of_run(*OF_A_RUN), OF_A_RUN, reads=True
    ),
)
