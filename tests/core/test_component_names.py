"""Saved files name components of the package by short names, so that a class can move without any of them changing."""

import inspect
import json
import re
import sys
from types import ModuleType

import pytest
from safetensors import safe_open

import peft_vision
from composed import composed
from conftest import tiny_vit
from peft_vision.core import config
from peft_vision.core.config import ConfigError, build, import_path, locate, moved, shortened
from peft_vision.core.identity import class_name, hashed
from peft_vision.method import lora
from peft_vision.method.base import Method
from peft_vision.models.adapter import read_adapter
from peft_vision.runs.experiment import KINDS
from peft_vision.runs.run import Run
from shipped import METHODS, adapted

TABLE = {(group, name): path for name, groups in config._paths().items() for group, path in groups.items()}


@pytest.fixture
def elsewhere(monkeypatch):
    """LoRA in another module than today, and no longer in today's."""
    module = ModuleType("peft_vision.method.low_rank_updates")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(inspect.getsource(lora), module.__name__, "exec"), vars(module))
    monkeypatch.delattr(lora, "LoRA")
    paths = {**config._paths(), "LoRA": {"method": f"{module.__name__}.LoRA"}}
    monkeypatch.setattr(config, "_paths", lambda: paths)
    return module.LoRA


@pytest.mark.parametrize(("group", "name"), TABLE)
def test_a_short_name_leads_to_the_class_that_the_config_files_of_its_group_name(group, name):
    cls = locate(name, group)
    assert f"{cls.__module__}.{cls.__qualname__}" == TABLE[group, name]
    assert class_name(cls) == name == shortened({"_target_": TABLE[group, name]})["_target_"]


def test_two_classes_of_one_name_are_told_apart_by_their_group_and_not_guessed():
    assert locate("ImageFolder", "config.data").__module__ == "peft_vision.data.image_folder"
    assert locate("ImageFolder", "ood.mine").__module__ == "peft_vision.ood.image_folder"
    assert import_path("ImageFolder", "somewhere") is None


@pytest.mark.parametrize(
    ("module", "before", "today"),
    [
        ("image_folder", "ImageFolder", "ShiftedFolder"),
        ("breeds", "Breeds", "ShiftedBreeds"),
        ("domainnet", "DomainNet", "ShiftedDomainNet"),
        ("fmow", "FMoW", "ShiftedFMoW"),
    ],
)
def test_a_class_of_another_name_today_keeps_the_one_that_files_know(module, before, today):
    path = f"peft_vision.ood.{module}"
    for name in (before, today, f"{path}.{before}", f"{path}.{today}"):
        cls = locate(name, "ood.mine")
        assert (cls.__name__, class_name(cls)) == (today, before)
    assert shortened({"_target_": f"{cls.__module__}.{today}"}) == {"_target_": before}


def test_a_name_that_nothing_has_is_an_error_of_one_line():
    with pytest.raises(ConfigError, match=r"^method\._target_: 'Lora' is no dotted path to a class$"):
        locate("Lora", "method")
    assert moved("peft_vision.method.gone.Lora", "method") is None
    assert moved("somebody.method.LoRA", "method") is None


def test_a_users_own_class_keeps_its_import_path():
    node = {"_target_": "mine.LoRA", "parts": [{"_target_": "peft_vision.method.lora.LoRA"}]}
    assert shortened(node) == {"_target_": "mine.LoRA", "parts": [{"_target_": "LoRA"}]}


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_config_holds_no_import_path_of_ours_and_builds_the_same_components(method, tmp_path):
    experiment = composed("experiment=smoke", f"method={method}", "ood=[cifar10_1]")
    run = Run(tmp_path)
    run.write_config(experiment.config)
    text = (tmp_path / "config.yaml").read_text()
    assert re.findall(r"peft_vision\.", text) == []
    for group, kind in KINDS.items():
        assert build(experiment.config[group], kind, group) == getattr(experiment, group)


def test_an_adapter_names_its_method_and_head_by_class(tmp_path):
    path = tmp_path / "adapter.safetensors"
    peft_vision.save(adapted("lora"), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (json.loads(metadata["method"])["_target_"], json.loads(metadata["head"])["_target_"]) == ("LoRA", "Head")


@pytest.mark.parametrize("name", ["LoRA", "peft_vision.method.lora.LoRA"], ids=["short name", "import path of before"])
def test_a_class_that_moves_changes_no_identity_and_its_adapters_are_read(name, tmp_path, monkeypatch, request):
    path = tmp_path / "adapter.safetensors"
    with monkeypatch.context() as patch:
        if "." in name:
            patch.setattr("peft_vision.models.adapter.shortened", lambda node: node)  # as files of before were written
        peft_vision.save(adapted("lora"), path)
    before = composed("experiment=smoke", "method=lora")
    elsewhere = request.getfixturevalue("elsewhere")
    node = {**before.config["method"], "_target_": name}
    assert type(build(node, Method, "method")) is elsewhere
    assert hashed(build(node, Method, "method")) == before.setting["method"]
    assert read_adapter(path).recipe.method["_target_"] == name
    model = peft_vision.load(path, tiny_vit())
    assert {type(module).__module__ for module in model.modules() if type(module).__name__ == "LowRankUpdate"} == {
        elsewhere.__module__
    }
