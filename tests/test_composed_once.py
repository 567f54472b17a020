"""Configs that tests compose once are those that Hydra composes each time."""

from unittest import mock

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import command
from composed_once import CONFIGS, LISTS, composed_anew, composed_once
from peft_vision.core.config import CONFIG_DIR

COMMANDS = [
    [],
    ["method=linear", "optimizer.lr=0.1"],
    ["optimizer.lr=0.2", "seed=3", "method=linear", "seed=4"],
    ["experiment=smoke", "method={_target_:peft_vision.method.linear.Linear}"],
    ["experiment=demo", "+trainer.note=1", "~data.split_seed", "++seed=7"],
    ["experiment=lp_ft_vs_ft", "data=digits", "ood=[stl10,cifar10_1]", "optimizer=adamw"],
    ["experiment=smoke", "method=combined", "method.parts=[lora,vqt]", "hydra/launcher=basic", "hydra.mode=RUN"],
    ["task=report", "~tracker"],
]
REFUSED = [
    ["method=lorra"],
    ["mehtod=lora"],
    ["++method=lora"],
    ["method=linear", "optimizer.lrr=0.1"],
    ["method=linear", "~trainer=other"],
    ["~data=nothing"],
    ["~ood"],
    ["seed=1,2"],
]


def composed(words: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", list(words), return_hydra_config=True)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_config_is_the_one_that_hydra_composes_and_changes_no_later_one(words):
    with composed_anew():
        expected = composed(words)
    with composed_once():
        for _ in range(3):
            found = composed(words)
            assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
            OmegaConf.set_struct(found, False)
            found.clear()


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_hydra_refuses_is_refused_in_its_words(words):
    said = []
    for way in (composed_anew, composed_once, composed_once):
        with way(), pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as refused:
            composed(words)
        said.append((type(refused.value), str(refused.value)))
    assert said[0] == said[1] == said[2]


def test_values_make_no_config_of_options():
    with composed_once():
        composed(["method=bitfit", "seed=0"])
        before = len(LISTS), len(CONFIGS)
        composed(["method=bitfit", "seed=1", "optimizer.lr=0.3"])
    assert (len(LISTS), len(CONFIGS)) == before


def test_a_file_of_the_users_own_that_was_edited_is_read_again(tmp_path):
    words = [f"hydra.searchpath=[file://{tmp_path}]", "method=own"]
    (tmp_path / "method").mkdir()
    with composed_once():
        for rank in (2, 3, 3):
            (tmp_path / "method" / "own.yaml").write_text(f"defaults: [lora, _self_]\nrank: {rank}\n")
            assert composed(words).method.rank == rank


def test_the_mode_of_commands_that_ask_for_none_is_composed_once(tmp_path):
    with mock.patch.object(command, "MODES", {}) as modes:
        for seed in range(2):
            command.call("task=report", f"seed={seed}", cwd=tmp_path)
    assert [*modes.values()] == [None]
