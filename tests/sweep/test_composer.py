"""Configs composed in part are those that Hydra composes whole."""

import re

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from composed_once import composed_anew, composed_once
from peft_vision.core.composition import Request
from peft_vision.core.config import CONFIG_DIR
from peft_vision.sweep.point import Composer

POINTS = [
    ["experiment=demo", "method=lora", "optimizer.lr=0.1", "seed=3"],
    ["optimizer.lr=0.2", "experiment=demo", "method=lora"],  # the order of groups and values does not matter
    ["experiment=demo", "method=lora", "seed=1", "seed=2"],  # the last value counts
    ["method=vqt", "data=digits", "tracker=none", "method.num_queries=4"],
    ["experiment=smoke", "method={_target_:peft_vision.method.linear.Linear}"],  # values of a group, not an option
    ["experiment=lp_ft_vs_ft", "data=digits", "ood=[stl10,cifar10_1]", "optimizer=adamw"],
    ["experiment=demo", "+trainer.note=1", "+note=2", "~data.split_seed", "++seed=7"],
    ["experiment=demo", "trainer.epochs=2"],  # of which the values of the point before are no part
    ["task=cache"],
    ["experiment=smoke", "method=combined", "method.parts=[lora,vqt]"],
    ["experiment=demo", "head=mlp", "optimizer=galore_adamw", "optimizer.rank=2", "data.augment=flip_crop"],
]


@pytest.fixture
def loader():
    with composed_anew(parses=False), initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def sweep(loader):
    return loader.load_configuration("config", ["hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN)


def whole(loader, sweep, overrides) -> Request:
    """As Hydra's own sweeper and launcher have it."""
    config = loader.load_sweep_config(sweep, overrides)
    choices = dict(config.hydra.runtime.choices)
    with read_write(config), open_dict(config):
        del config["hydra"]
    return Request.of(config, choices)


def test_every_point_equals_what_hydra_composes(loader, sweep):
    composer = Composer(loader, sweep)
    for overrides in POINTS:
        expected = whole(loader, sweep, overrides)
        found = composer.request(overrides)
        assert found == expected
        assert list(found.config) == list(expected.config)


def test_so_do_methods_that_share_files_after_each_other(loader, sweep):
    """One that is part of the next, one that was part of those before, and two of which a third is part."""
    composer = Composer(loader, sweep)
    for method in ("adapter_houlsby", "adapter_pfeiffer", "vqt_adaptformer", "adaptformer", "vqt_lora", "lora", "vqt"):
        overrides = ["experiment=smoke", f"method={method}", "optimizer.lr=0.1"]
        with composed_once():
            assert composer.request(overrides) == whole(loader, sweep, overrides)


def test_one_point_leaves_nothing_to_the_next(loader, sweep):
    composer = Composer(loader, sweep)
    first = composer.request(["experiment=demo", "method=lora"])
    for values in (
        ["method.rank=99", "+trainer.note=1", "~seed"],
        ["method={rank:99}", "method.alpha=3", "+method.note={of:{more:1}}"],
        ["method.targets=[q]", "~method.alpha", "++trainer.note.of=1"],
    ):
        composer.request(["experiment=demo", "method=lora", *values])
        assert composer.request(["experiment=demo", "method=lora"]) == first
    with pytest.raises(HydraException):
        composer.request(["experiment=demo", "method=lora", "method.rank=99", "method.rnak=1"])
    assert composer.request(["experiment=demo", "method=lora"]) == first


def test_groups_are_composed_once_for_each_choice(loader, sweep, monkeypatch):
    calls = []
    compose = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *given: calls.append(given) or compose(*given))
    composer = Composer(loader, sweep)
    for method in ("linear", "lora"):
        for seed in range(5):
            composer.request(["experiment=demo", f"method={method}", f"seed={seed}"])
    assert len(calls) == 2


def test_hydras_own_values_are_there_and_its_state_is_left_alone(loader, sweep):
    composer = Composer(loader, sweep)
    before = HydraConfig.instance().cfg
    found = composer.request(["experiment=demo", "method=lora", "runs='out/${hydra:runtime.choices.method}'"])
    assert found.config["runs"] == "out/lora"
    assert HydraConfig.instance().cfg is before


@pytest.mark.parametrize("wrong", ["method=lorra", "optimizer.lrr=1", "nothing=1", "seed=???"])
def test_what_does_not_compose_is_refused_as_by_hydra(wrong, loader, sweep):
    overrides = ["experiment=demo", wrong]
    with pytest.raises((HydraException, OmegaConfBaseException)) as expected:
        whole(loader, sweep, overrides)
    with pytest.raises(type(expected.value), match=f"^{re.escape(str(expected.value))}$"):
        Composer(loader, sweep).request(overrides)
