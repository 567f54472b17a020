"""The command before it does anything: help, completion, composition."""

import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import peft_vision
from command import ASKING, call, command, start
from peft_vision.core.composition import all_options, complete
from peft_vision.core.config import CONFIG_DIR, build
from peft_vision.core.config_files import ConfigFiles
from peft_vision.core.guide import FIRST_PAGE
from peft_vision.ood.match import build_sets
from peft_vision.runs.experiment import KINDS
from peft_vision.task.base import Task

OPTIONS = sorted((path.parent.name, path.stem) for path in CONFIG_DIR.glob("*/*.yaml"))
OPEN = {  # values that only the user knows
    "backbone.name": "vit_tiny_patch16_224",
    "backbone.checkpoint": "vit-b-300ep.pth.tar",
    "data.path": "pictures",
    "ood.image_folder.path": "pictures",
    "ood.elsewhere.path": "night",
    "run": "run",
    "images": "pictures",
    "file": "lora",
    "out": "here",
    "task.repo": "me/lora",
}


def composed(*overrides: str) -> dict:
    """The resolved config of a command line, with what it leaves open filled in."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", list(overrides))
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, OPEN[key])
    plain = OmegaConf.to_container(config, resolve=True)
    return {**plain, **{group: complete(plain[group], group) for group in ("method", "tracker")}}


def test_the_command_waits_for_no_library_that_is_slow_to_import():
    """Nor do the plugins that Hydra imports with each."""
    slow = "{'torch', 'torchvision', 'timm', 'wandb', 'sklearn', 'numpy', 'matplotlib', 'optuna', 'scipy'}"
    script = f"import atexit, sys; atexit.register(lambda: print('slow:', *{slow} & set(sys.modules)))\n"
    script += "from peft_vision.cli import main; main()"
    said = subprocess.check_output([sys.executable, "-c", script, "--help"], text=True)
    assert said.splitlines()[-1].strip() == "slow:"


def test_a_folder_that_is_gone_is_no_place_to_work_in(tmp_path):
    script = (
        "import os, sys; os.rmdir(os.getcwd()); from peft_vision.cli import main; sys.argv[1:] = ['--help']; main()"
    )
    (tmp_path / "gone").mkdir()
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "gone", capture_output=True, text=True)
    expected = "peft-vision: cannot work in the current folder (No such file or directory); change to another folder\n"
    assert (ended.returncode, ended.stderr) == (1, expected)


def test_help_shows_every_option_and_two_examples_and_no_other_name(tmp_path):
    outcome = call("--help", cwd=tmp_path)
    assert OPTIONS
    groups = dict(line.split(": ") for line in outcome.out.splitlines() if line.count(": ") == 1)
    for group, option in OPTIONS:
        assert option in groups[group].split(", ")
    assert sum(line.startswith("  peft-vision ") for line in outcome.out.splitlines()) == 2
    assert "hydra" not in outcome.out.lower()
    assert (outcome.code, outcome.err) == (0, "")


def test_help_lists_what_hydra_finds_and_nothing_that_is_only_a_start_for_other_files(tmp_path):
    (tmp_path / "my, 'conf'" / "method" / "inner").mkdir(parents=True)
    for name in ("method/mine", "method/inner/deep"):
        (tmp_path / "my, 'conf'" / f"{name}.yaml").write_text("defaults: [/method/lora@_here_]\nrank: 2\n")
    plain, own = all_options([], None), all_options(["method=mine"], str(tmp_path / "my, 'conf'"))
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert plain == {group: sorted(loader.get_group_options(group)) for group in plain}
        shown = set(loader.list_groups("")) - {"hydra", "shared"}
    assert {group.split("/")[0] for group in plain} == shown
    assert own == {**plain, "method": sorted([*plain["method"], "mine"]), "method/inner": ["deep"]}
    assert all_options([], str(tmp_path / "my, 'conf'")) == own


def test_help_refuses_overrides_that_do_not_compose(tmp_path):
    assert call("--help", "method=lra", cwd=tmp_path).error.endswith("did you mean lora?")
    assert call("--help", "--config-dir", "none", cwd=tmp_path).error.endswith("none' not found")
    assert call("--help", "seed=1", cwd=tmp_path).out == call("-h", cwd=tmp_path).out


def test_nothing_asked_for_starts_nothing_and_shows_the_first_page(tmp_path):
    outcome = command(cwd=tmp_path, fresh=True)
    assert (outcome.code, outcome.out) == (2, "")
    assert sum(line.startswith("  peft-vision ") for line in outcome.err.splitlines()) == 3
    assert "peft-vision --help" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_the_examples_of_the_first_page_compose(tmp_path):
    examples = re.findall(r"^  peft-vision (.*?)  ", FIRST_PAGE, re.MULTILINE)
    for words in [*examples, "task=train"]:
        outcome = call(*words.split(), "--cfg", "job", cwd=tmp_path)
        assert (outcome.code, outcome.err) == (0, ""), words


def test_its_version_is_its_own_with_those_it_stands_on(tmp_path):
    outcome = call("--version", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    beside = f"Hydra {hydra.__version__}, torch {version('torch')}, timm {version('timm')}"
    assert outcome.out.startswith(f"peft-vision {peft_vision.__version__} ({beside}, Python 3.")


TASKS = [option for group, option in OPTIONS if group == "task"]


@pytest.mark.parametrize("task", TASKS)
def test_the_help_of_a_task_has_its_keys_and_examples_that_compose(task, tmp_path):
    outcome = call(f"task={task}", "--help", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    bare = composed(f"task={task}")
    own = [key for key in bare if key in OWN_KEYS or (key == "runs" and task == "serve")]
    expected = [f"task.{key}" for key in bare["task"] if key != "_target_"] + own
    shown = re.findall(r"^  ([\w.]+)=", outcome.out, re.MULTILINE)
    assert sorted(shown) == sorted(expected)
    examples = re.findall(r"^  peft-vision (.*)$", outcome.out, re.MULTILINE)
    assert examples
    for words in examples:
        if " -m " not in f" {words}":
            assert call(*shlex.split(words), "--cfg", "job", cwd=tmp_path).code == 0, words
    for other in set(TASKS) - {task}:
        assert other in outcome.out.splitlines()[-1]


OWN_KEYS = ("run", "images", "checkpoint", "out", "file")


def test_the_help_of_a_task_that_is_not_there_names_those_that_are(tmp_path):
    assert call("task=pedict", "--help", cwd=tmp_path).error.endswith("did you mean predict?")


def test_the_shell_can_install_its_completion(tmp_path):
    outcome = call("-sc", "install=bash", cwd=tmp_path)
    assert outcome.code == 0
    syntax = subprocess.run(["bash", "-n"], input=outcome.out, text=True, capture_output=True)
    assert (syntax.returncode, syntax.stderr) == (0, "")
    assert "peft-vision" in outcome.out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("method=vpt_d", ["method=vpt_deep"]),
        ("method=linear sched", ["schedule=", "schedule."]),
    ],
)
def test_hydra_completes_groups_options_and_keys_too(typed, offered, tmp_path):
    line = f"peft-vision {typed}"
    variables = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": str(len(shlex.split(line)) - 1)}
    out, err = start("-sc", "query=bash", cwd=tmp_path, fresh=True, **variables).communicate(timeout=240)
    assert err == ""
    assert sorted(out.split()) == sorted(offered)


READS = {"ood": "data", "optimizer": "method"}
"""Groups whose values refer to those of another one: an option of one is chosen beside the usual one of the other."""
# keys of which completion knows the name, and whose values the config spells out
SPELLED = {"combined": "method.parts", "several": "tracker.parts", "elsewhere": "ood.elsewhere.data"}


def sharing_lines() -> dict[tuple[str, str], dict[str, str]]:
    """Each option, and all options of the command line that it is chosen on: one of each group, since to compose is
    what takes the time. An experiment has a line of its own, for it chooses options of other groups."""
    lines: dict[tuple[str, int], dict[str, str]] = {}
    found = {}
    for group in dict.fromkeys(group for group, _ in OPTIONS):
        own = [option for other, option in OPTIONS if other == group]
        first = sum(other == READS.get(group) for other, _ in OPTIONS)
        for number, option in enumerate(own, first):
            line = lines.setdefault(("experiment" if group == "experiment" else "", number), {})
            line |= {group: option, **({"data": "imagenet"} if group == "ood" else {})}  # some lie in its folder
            found[group, option] = line
    return found


LINES = sharing_lines()


@cache
def built(line: tuple[tuple[str, str], ...]) -> dict[str, set[str]]:
    """The keys that Hydra composes of a line's options, all of which are built, and the keys that completion finds."""
    chosen = dict(line)
    config = composed(*map("=".join, line))
    for kind_of, kind in {**KINDS, "task": Task}.items():
        assert isinstance(build(config[kind_of], kind, kind_of), kind)
    assert list(build_sets(config["ood"])) == ([chosen["ood"]] if "ood" in chosen else [])
    spelled = {SPELLED[option] for option in chosen.values() if option in SPELLED}
    found = leaves(ConfigFiles([CONFIG_DIR]).composed(chosen).values) - spelled
    return {
        "found": found,
        "composed": {key for key in leaves(config) if not any(key.startswith(f"{key_of}.") for key_of in spelled)},
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=map("=".join, OPTIONS))
def test_every_option_composes_and_builds(group, option):
    line = LINES[group, option]
    assert line[group] == option
    keys = built(tuple(line.items()))
    assert keys["found"] == keys["composed"]


def test_no_option_asks_for_a_sweep_but_tasks_and_experiments():
    """On which `command.py` relies."""
    files = ConfigFiles([CONFIG_DIR])
    found = {group for group, option in OPTIONS if files.composed({group: option}).at("hydra.mode")}
    assert found == ASKING


def leaves(values: dict, prefix: str = "") -> set[str]:
    """The dotted keys of all values, without Hydra's own."""
    inner = {f"{prefix}{key}": value for key, value in values.items() if prefix or key != "hydra"}
    nested = {key: leaves(value, f"{key}.") for key, value in inner.items() if isinstance(value, dict) and value}
    return {key for key in inner if key not in nested}.union(*nested.values())


def test_flags_may_stand_between_overrides(tmp_path):
    outcome = call("method=linear", "--cfg", "job", "seed=7", cwd=tmp_path)
    assert outcome.code == 0
    assert "seed: 7" in outcome.out


def test_values_of_peft_need_no_plus_beside_those_of_the_file(tmp_path):
    words = ("method=hf_peft", "method.config={peft_type: HRA}", "method.config.r=4", "--cfg", "job")
    outcome = call(*words, cwd=tmp_path)
    assert re.search(r"^    peft_type: HRA\n    target_modules:\n    - qkv\n    - proj\n    r: 4$", outcome.out, re.M)
    outcome = call("experiment=smoke", "method=lora", "method.config.r=4", cwd=tmp_path)
    assert outcome.error.startswith("method: unknown config; LoRA takes ")


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    arguments = ("data=image_folder", "data.path=~/pictures", "--cfg", "job")
    assert f"path: {tmp_path}/ada/pictures" in call(*arguments, cwd=tmp_path).out
    (tmp_path / "ada" / "conf" / "method").mkdir(parents=True)
    (tmp_path / "ada" / "conf" / "method" / "mine.yaml").write_text("defaults: [lora, _self_]\nrank: 5\n")
    outcome = call("--config-dir=~/conf", "method=mine", "--cfg", "job", cwd=tmp_path)
    assert "rank: 5" in outcome.out, outcome


def test_a_reader_who_leaves_early_is_no_error(tmp_path):
    process = start("--help", cwd=tmp_path, fresh=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=240) == 0
    process.stderr.close()
