"""A shell completes what a command can say: groups, options, keys and values."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

from command import call
from peft_vision.core.completion import SHELLS, Line, completions, script
from peft_vision.core.config import CONFIG_DIR
from preloaded import SOURCES

BREAKS = " \t\n\"'@><=;|&(:"  # bash's own


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a finished run, pictures, and a config folder of the user's."""
    for name in ("runs/lora-a/result.json", "my pictures/a.png", "mine/method/own.yaml", "mine/data/inner/deep.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("defaults: [lora, _self_]\nstrength: 2\n" if name.startswith("mine/m") else "")
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("method=vpt_d", ["method=vpt_deep"]),
        ("optimizer=", sorted(f"optimizer={path.stem}" for path in (CONFIG_DIR / "optimizer").glob("*.yaml"))),
        ("method=lora,vq", ["vqt", "vqt_adaptformer", "vqt_lora", "vqt_vpt"]),
        ("data=vtab/dt", ["data=vtab/dtd"]),
        ("data=vt", ["data=vtab/"]),
        ("ood=[stl10,cifar10_", ["cifar10_1", "cifar10_c"]),
        ("method.parts=[lora,ss", ["ssf"]),
        ("hydra/sweeper=tu", ["hydra/sweeper=tune"]),
        ("trainer.ep", ["trainer.epochs="]),
        ("++trainer.ep", ["++trainer.epochs="]),
        ("sched", ["schedule.", "schedule="]),
        ("method=lora method.al", ["method.alpha="]),
        ("method=vpt_deep method.al", []),
        ("method=vqt_lora method.parts.lora.al", ["method.parts.lora.alpha="]),
        ("ood=stl10 ood.stl10.mis", ["ood.stl10.missing="]),
        ("experiment=demo backbone.architecture.dep", ["backbone.architecture.depth="]),
        ("experiment=demo backbone=deit_s16 backbone.architecture.dep", []),
        ("task=predict ima", ["images="]),
        ("task=predict task.sh", ["task.sheet_images="]),
        ("task=reproduce task.ret", ["task.retry="]),
        ("data=image_folder data.resize=", ["data.resize=crop", "data.resize=squash"]),
        ("ood=stl10 ood.stl10.missing=m", ["ood.stl10.missing=mask"]),
        ("data.cache=t", ["data.cache=true"]),
        ("seed=", []),
        ("task=predict run=", ["run=runs/lora-a"]),
        ("task=predict images=my", ["images=my pictures/"]),
        ("task=predict images=", ["images=mine/", "images=my pictures/", "images=runs/"]),
        ("--config-dir mi", ["mine/"]),
        ("--config-dir mine method=ow", ["method=own"]),
        ("--config-dir=mine method=own method.str", ["method.strength="]),
        ("hydra.searchpath=[file://mine] data=inner/", ["data=inner/deep"]),
        ("--ver", ["--version"]),
        ("--cfg j", ["job"]),
        ("comp", ["completion"]),
        ("seed=1 comp", []),
        ("completion z", ["zsh"]),
        ("new d", ["data"]),
        ("new method ", []),
        ("nothing.of.it", []),
    ],
)
def test_what_is_offered(typed, offered, here):
    stem = typed.rpartition(" ")[2]
    stem = stem[: max(stem.rfind(","), stem.rfind("[")) + 1]  # stays as it was typed
    assert completions(typed.split(" ")) == [word if "=" in word else f"{stem}{word}" for word in offered]


def test_own_files_in_the_home_folder_are_offered(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert completions(["--config-dir", "~/mine", "method=ow"]) == ["method=own"]
    assert completions(["--config-dir=~/mine", "method=own", "method.str"]) == ["method.strength="]


@pytest.mark.parametrize(
    ("line", "words", "completed", "written"),
    [
        ("peft-vision method=vp", ["method=vp"], "method=vpt_deep", "vpt_deep "),
        ("peft-vision  seed=1 meth", ["seed=1", "meth"], "method=", "method="),
        ("peft-vision 'method.parts=[ss", ["method.parts=[ss"], "method.parts=[ssf", "method.parts=[ssf"),
        ("peft-vision images=my\\ p", ["images=my p"], "images=my pictures (a)/", "my\\ pictures\\ \\(a\\)/"),
        ('peft-vision images="my p', ["images=my p"], "images=my pictures/", "my pictures/"),
        ("peft-vision ", [""], "new", "new "),
    ],
)  # fmt: skip
def test_a_line_of_bash_is_read_and_continued_as_bash_does(line, words, completed, written):
    read = Line.read(line, BREAKS)
    assert read.words == ["peft-vision", *words]
    assert read.written(completed) == written


def test_a_key_press_imports_nothing_that_is_slow():
    slow = "{'hydra', 'omegaconf', 'pydantic', 'rich', 'torch', 'numpy'}"
    script = f"import atexit, sys; atexit.register(lambda: print('slow:', *{slow} & set(sys.modules)))\n"
    script += "from peft_vision.__main__ import main; main()"
    arguments = ("complete", "words", "method=lora", "method.al")
    said = subprocess.check_output([sys.executable, "-c", script, *arguments], text=True)
    assert said.split() == ["method.alpha=", "slow:"]


def test_the_command_prints_a_script_for_each_shell_and_names_the_shells(tmp_path):
    for shell in SHELLS:
        outcome = call("completion", shell, cwd=tmp_path)
        assert (outcome.code, outcome.err) == (0, "")
        assert " complete " in outcome.out
    assert call("completion", "sh", cwd=tmp_path).error.startswith("completion: name a shell, bash, zsh, fish; ")


TYPED = {  # by a person, tabs among it
    "peft-vision method=vpt_d\t": ["method=vpt_deep"],
    "peft-vision method=lora method.al\t4": ["method=lora", "method.alpha=4"],
    "peft-vision task=predict images=my\ta.p\t": ["task=predict", "images=my pictures/a.png"],
    "peft-vision --config-dir mine 'method=ow\t": ["--config-dir", "mine", "method=own"],
}
INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source ./script"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source ./script"),
}


@pytest.fixture
def shell(request, here, monkeypatch):
    """The name of a shell; its script is in the folder, and a command on its path that prints what it is called with,
    unless it is asked to complete."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed; tests/debian_packages.sh installs it on Debian")
    command = here / ".hidden" / "peft-vision"
    asked = f'PYTHONPATH={SOURCES} exec {sys.executable} -m peft_vision "$@"'
    command.write_text(f'#!/bin/sh\n[ "$1" = complete ] && {{ {asked}; }}\nprintf RAN; printf "<%s>" "$@"; echo\n')
    command.chmod(0o755)
    (here / "script").write_text(script(request.param))
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("TERM", "dumb")
    return request.param


@pytest.mark.parametrize("shell", INTERACTIVE, indirect=True)
def test_a_person_at_a_terminal_gets_what_is_meant(shell, here):
    master, terminal = pty.openpty()
    program, begin = INTERACTIVE[shell]
    process = subprocess.Popen(program, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    seen, until = "", time.monotonic() + 60
    try:
        os.write(master, f"{begin}\n".encode())
        for number, line in enumerate(TYPED):
            os.write(master, f"{line}\n".encode())
            while len(ran(seen)) <= number and time.monotonic() < until:
                if select.select([master], [], [], 0.2)[0]:
                    seen += os.read(master, 4096).decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert ran(seen) == list(TYPED.values()), seen


def ran(seen: str) -> list[list[str]]:
    """The arguments of each command that ran, by what the terminal shows."""
    return [re.findall("<(.*?)>", found) for found in re.findall(r"RAN((?:<[^>]*>)+)\r?\n", seen)]


@pytest.mark.parametrize("shell", ["fish"], indirect=True)
def test_fish_offers_what_is_meant(shell, here):
    ask = "source ./script; complete -C 'peft-vision method=vpt_d'; complete -C 'peft-vision task=predict images=my'"
    said = subprocess.check_output(["fish", "--no-config", "-c", ask], text=True)
    assert said.splitlines() == ["method=vpt_deep", "images=my pictures/"]
