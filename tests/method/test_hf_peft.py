"""Methods of Hugging Face's `peft`, as methods of ours: against `peft` itself, and each of its tuners once."""

import copy
import json
from functools import partial
from importlib.util import find_spec

import pytest
import torch

import peft_vision
from command import call, run_folder
from conftest import tiny_vit
from peft_vision.backbone.merge import merged
from peft_vision.core.composition import option
from peft_vision.core.config import CONFIG_DIR, ConfigError
from peft_vision.exchange import peft_tuners
from peft_vision.method.hf_peft import HFPeft, TunedByPeft
from peft_vision.testing import (
    METHOD_CHECKS,
    a_saved_model_is_the_same_model,
    what_is_stored_is_what_is_computed,
    what_moves_is_what_trains,
)
from shipped import adapted, train

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="Hugging Face's peft is not installed")
READY = sorted(f"hf_peft/{path.stem}" for path in (CONFIG_DIR / "method" / "hf_peft").glob("*.yaml"))
OTHERS = {
    "LOHA": {"r": 4},
    "IA3": {"target_modules": ["qkv", "fc2"], "feedforward_modules": ["fc2"]},
    "HRA": {"r": 4},
    "MISS": {"r": 4},
    "RANDLORA": {"r": 4},
    "DELORA": {"r": 4},
    "LORA": {"r": 4, "init_lora_weights": "olora"},
}


def other(kind: str, **options):
    config = {"peft_type": kind, "target_modules": ["qkv", "fc2"], **OTHERS[kind]}
    return adapted("hf_peft", config=config, **options)


MAKES = {**{name: partial(adapted, name) for name in READY}, **{kind: partial(other, kind) for kind in OTHERS}}


def in_peft(model, folder):
    """The model as peft writes it and reads it again."""
    vit = tiny_vit()
    vit.reset_classifier(4)
    untouched = copy.deepcopy(vit)
    peft_tuners.write(model, vit, folder)
    return peft_tuners.read(folder, untouched)


@pytest.mark.parametrize("name", MAKES)
def test_what_is_trained_here_computes_the_same_there_and_merged(name, tmp_path, images, labels):
    model = MAKES[name]()
    before = {key: value.clone() for key, value in tiny_vit().state_dict().items()}
    train(model, images, labels)
    model.eval()
    with torch.no_grad():
        logits = model(images)
        torch.testing.assert_close(in_peft(model, tmp_path)(images), logits, rtol=1e-4, atol=1e-5)
        with merged(model.encoder):
            torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(images), logits)
    for key, value in model.encoder.vit.state_dict().items():
        if (plain := key.replace(".inner", "")) in before:
            assert torch.equal(value, before[plain]), key
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == ["head"]


@pytest.mark.parametrize("name", READY)
@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
def test_those_that_are_ready_pass_the_checks_for_all_methods(check, name):
    stores = check is what_is_stored_is_what_is_computed  # nothing, where the first layer is changed
    check(partial(adapted, name, **({"layers": "last-1"} if stores else {})))


@pytest.mark.parametrize("kind", OTHERS)
def test_another_tuner_trains_and_is_saved(kind):
    make = partial(other, kind)
    what_moves_is_what_trains(make)
    a_saved_model_is_the_same_model(make)


@pytest.mark.parametrize("name", ["hf_peft/pissa", "hf_peft/vera", "hf_peft/lokr"])
def test_attaching_changes_nothing(name, images):
    model, probe = adapted(name).eval(), adapted("linear").eval()
    probe.head = model.head
    torch.testing.assert_close(model(images), probe(images), rtol=1e-5, atol=1e-5)


def test_the_layers_are_chosen_by_ours_and_matrices_by_either_name():
    model = adapted(
        "hf_peft", config={"peft_type": "HRA", "r": 2, "target_modules": ["attn.proj", "fc1"]}, layers="last-1"
    )
    found = [name for name, module in model.encoder.added().items() if isinstance(module, TunedByPeft)]
    assert found == ["blocks.2.attn.proj", "blocks.2.mlp.fc1"]


def test_it_is_a_part_like_others_if_it_is_the_first(images, labels):
    parts = {"hf_peft/vera": {}, "lora": {"targets": ["qkv"]}, "vqt": {}}
    model = adapted("combined", parts=parts)
    train(model, images, labels)
    with pytest.raises(ConfigError, match="let hf_peft be the first part that changes it"):
        adapted("combined", parts={"lora": {"targets": ["qkv"]}, "hf_peft/vera": {}})


REFUSED = {
    "a prompt": ({"peft_type": "PREFIX_TUNING"}, r"\.peft_type: PREFIX_TUNING cannot be used: it learns prompts"),
    "a schedule": ({"peft_type": "ADALORA"}, "cannot be used: it moves ranks"),
    "norms": ({"peft_type": "LN_TUNING"}, "which method=layer_norm does"),
    "no type": ({"peft_type": "VERRA"}, r"peft has no VERRA; did you mean VERA\?; it has"),
    "data": ({"peft_type": "LORA", "init_lora_weights": "corda"}, "corda needs data, quantised weights"),
    "a pattern": ({"peft_type": "LORA", "rank_pattern": {"(a+)+$": 4}}, "should have ends of paths such as attn.qkv"),
    "iterations": ({"peft_type": "LORA", "init_lora_weights": "pissa_niter_99999"}, "no end of time"),
    "a strange key": ({"peft_type": "HRA", "rank": 4}, "HRAConfig of peft has no rank"),
    "a key of ours": ({"peft_type": "HRA", "layers_to_transform": [1]}, "method.layers chooses the layers"),
    "a bad value": ({"peft_type": "BOFT", "boft_block_size": 5}, "BOFT of peft refuses it: "),
    "a butterfly": (
        {"peft_type": "BOFT", "boft_n_butterfly_factor": 2},
        r"^method\.config\.boft_n_butterfly_factor: got 2, and peft computes 1 without its CUDA extension, .*; set 1$",
    ),
    "no matrix": ({"peft_type": "HRA", "target_modules": ["q_proj"]}, "no matrix of .* is named q_proj; its matrices"),
    "no targets": ({"peft_type": "HRA", "target_modules": []}, "should name matrices in target_modules"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_line(case, monkeypatch):
    config, message = REFUSED[case]
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)
    with pytest.raises(ConfigError, match=message) as caught:
        adapted("hf_peft", config={"target_modules": ["qkv"], **config})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("config", "rotations"), [({}, 1), ({"boft_n_butterfly_factor": 2}, 2)])
def test_boft_has_the_rotations_that_its_config_says_with_the_extension(config, rotations, monkeypatch):
    """As shipped it is the same model as without, which is tested above."""
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", object)
    model = adapted("hf_peft/boft", config={**option("method", "hf_peft/boft")["config"], **config})
    assert model.parameter_counts().method == 3 * (rotations * 2 * 32 * 4 + 96 + 32)


def test_without_the_package_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("peft_vision.method.hf_peft.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'peft-vision\[hf_peft\]'$"):
        peft_vision.adapt(tiny_vit(), method="hf_peft/vera", num_classes=4)


def _tuners() -> list[str]:
    if find_spec("peft") is None:
        return []
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    return sorted(name.value for name in PEFT_TYPE_TO_TUNER_MAPPING)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about what some of them compute with
@pytest.mark.parametrize("kind", _tuners())
def test_every_tuner_of_the_package_trains_or_is_refused_in_a_line(kind, images, labels):
    """With values of its own; some of them need others, for the sizes of this backbone."""
    try:
        model = adapted("hf_peft", config={"peft_type": kind, "target_modules": ["qkv"]})
    except ConfigError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "\n" not in said
        return
    before = {key: value.clone() for key, value in model.named_parameters()}
    train(model, images, labels)
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert any(".layer." in key for key in moved)
    assert moved <= model.trained().keys()


def test_a_run_is_trained_and_exported_by_theirs_and_merged(tmp_path):
    assert call("experiment=smoke", "trainer.epochs=1", "method=hf_peft/pissa", cwd=tmp_path).code == 0
    run = f"run={run_folder(tmp_path / 'runs')}"
    for kind in ("peft", "timm"):
        outcome = call("task=export", run, f"task.format={kind}", "out=out", cwd=tmp_path)
        assert outcome.code == 0, outcome
    assert json.loads((tmp_path / "out" / "peft" / "adapter_config.json").read_text())["r"] == 16
    assert "hf\\_peft/pissa" in (tmp_path / "out" / "peft" / "README.md").read_text()


def test_values_are_plain_in_the_component():
    method = HFPeft(
        config={"peft_type": "vera", "target_modules": "qkv"}, layers="all", probe_first=False, lr={"sgd": 0.1}
    )
    assert method.config == {"peft_type": "VERA", "target_modules": ["qkv"]}
