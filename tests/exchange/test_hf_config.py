"""What `peft` makes of a config is what we make of it, or it is refused: compared with its own reload."""

import json
import random
import re
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import tiny_vit
from peft_vision.core.records import Unreadable
from peft_vision.exchange import hf_peft
from peft_vision.models.adapter import load_tuned
from shipped import adapted

pytestmark = pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")
PRECISE = {"rtol": 1e-4, "atol": 1e-4}  # of logits of size 1
MODULES = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
KEYS = [
    "qkv", "proj", "fc1", "fc2", "attn.qkv", "mlp.fc1", "blocks.1.attn.qkv", "blocks.2.mlp.fc2", "1.attn.proj",
    r"blocks\.[01]\.mlp\.fc\d", r"blocks\.\d+\.attn\.(qkv|proj)", r".*\.mlp\.fc1", "blocks.1", "attn", "kv", "f",
    r"0\.(?:attn|mlp)\..*", "",
]  # fmt: skip
TARGETS = [
    ["qkv"], ["qkv", "fc1"], ["attn.proj", "fc2", "qkv"], ["blocks.0.attn.qkv", "fc1"], "all-linear",
    r"blocks\.[12]\..*fc\d",
    r".*\.attn\.(qkv|proj)",
]  # fmt: skip


def classifier() -> nn.Module:
    vit = tiny_vit()
    vit.reset_classifier(4)
    return vit


def written(folder: Path, **options: object) -> Path:
    """By `peft`: an adapter with numbers of a size that shows."""
    config = peft.LoraConfig(**{"modules_to_save": ["head"], "r": 4, "lora_alpha": 6, **options})
    model = peft.get_peft_model(classifier(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.normal_(0, 0.3)
            if "magnitude" in name:
                parameter.mul_(1.3)
    model.save_pretrained(folder)
    return folder


def theirs(folder: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(classifier(), folder).eval()


def ours(folder: Path) -> nn.Module:
    imported = hf_peft.Imported(folder)
    spelled = imported.method()
    model = adapted("combined" if "parts" in spelled else "lora", **spelled)
    load_tuned(model, imported.tensors)
    return model.eval()


def drawn(seed: int) -> dict[str, object]:
    """Any options that `peft` takes, overlapping and nested patterns most of all."""
    draw = random.Random(seed)
    keys = draw.sample(KEYS, 4)
    options: dict[str, object] = {
        "target_modules": draw.choice(TARGETS),
        "alpha_pattern": {key: draw.choice([1, 3, 8, 0.5]) for key in keys[: draw.randint(0, 4)]},
        "rank_pattern": {key: draw.randint(1, 6) for key in draw.sample(KEYS, draw.randint(0, 4))},
        "use_rslora": draw.random() < 0.5,
        "use_dora": draw.random() < 0.3,
        "init_lora_weights": draw.choice([True, False, "gaussian"]),
    }
    if draw.random() < 0.4:
        options["exclude_modules"] = draw.choice([["blocks.0.attn.qkv"], "blocks[.]1[.].*", ["fc1"]])
    if draw.random() < 0.4 and isinstance(options["target_modules"], list):
        options |= {
            "layers_to_transform": draw.choice([1, [0, 2]]),
            "layers_pattern": draw.choice(["blocks", ["x", "blocks"]]),
        }
    return options


@pytest.mark.parametrize("seed", range(24))
def test_random_adapters_compute_what_peft_reloads(seed, images, tmp_path):
    torch.manual_seed(seed)
    written(tmp_path, **drawn(seed))
    try:
        expected = theirs(tmp_path)(images)
    except RuntimeError:  # it sorts the keys of a pattern when it writes, so that another may be the first
        with pytest.raises(Unreadable, match=r"has rank \d, its tensors \d"):
            ours(tmp_path)
        return
    torch.testing.assert_close(ours(tmp_path)(images), expected, **PRECISE)


@pytest.mark.parametrize("seed", range(6))
def test_the_first_of_several_keys_counts_in_any_order(seed, images, tmp_path):
    """`peft` sorts them when it writes; somebody else may not."""
    written(tmp_path, target_modules=MODULES)
    path = tmp_path / hf_peft.CONFIG
    keys = random.Random(seed).sample(KEYS, 6)
    pattern = {key: number + 1 for number, key in enumerate(keys)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "alpha_pattern": pattern}))
    torch.testing.assert_close(ours(tmp_path)(images), theirs(tmp_path)(images), **PRECISE)


def every_init() -> list[str]:
    """As the installed `peft` types them, that with a number spelled, and the one that it only knows in its code."""
    typed = re.findall(r"[\"']([^\"']+)[\"']", str(peft.LoraConfig.__annotations__["init_lora_weights"]))
    return [value.replace("[number of iters]", "4") for value in typed] + ["lora_ga"]


KEEP_THE_BASE = {"gaussian", "eva", "orthogonal", "mica"}


def test_the_inits_that_peft_knows_are_those_that_were_looked_at():
    assert set(every_init()) == KEEP_THE_BASE | {"olora", "pissa", "pissa_niter_4", "corda", "loftq", "lora_ga"}


@pytest.mark.parametrize("init", [True, False, *sorted(KEEP_THE_BASE - {"eva"})])
def test_an_init_that_keeps_the_base_weights_is_read(init, images, tmp_path):
    written(tmp_path, target_modules=["qkv", "fc1"], init_lora_weights=init)
    torch.testing.assert_close(ours(tmp_path)(images), theirs(tmp_path)(images), **PRECISE)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_init_that_changes_them_is_refused(init, images, tmp_path):
    """It would be another model."""
    config = peft.LoraConfig(modules_to_save=["head"], target_modules=["qkv"], init_lora_weights=init)
    peft.get_peft_model(classifier(), config).save_pretrained(tmp_path)
    with pytest.raises(Unreadable, match=f"init_lora_weights='{init}' is not supported"):
        ours(tmp_path)
    path = tmp_path / hf_peft.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": True}))
    assert not torch.allclose(ours(tmp_path)(images), theirs_of(init, tmp_path)(images), rtol=1e-2)


def theirs_of(init: str, folder: Path) -> nn.Module:
    path = folder / hf_peft.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": init}))
    return theirs(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return written(tmp_path_factory.mktemp("plain"), target_modules=["qkv", "fc1"])


@pytest.fixture
def folder(plain, tmp_path):
    for path in plain.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


NOT_SUPPORTED = "is not supported"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        *(({"init_lora_weights": init}, NOT_SUPPORTED) for init in sorted({*every_init()} - KEEP_THE_BASE)),
        ({"init_lora_weights": "PiSSA"}, NOT_SUPPORTED),
        ({"init_lora_weights": None}, NOT_SUPPORTED),
        ({"bias": "lora_only"}, NOT_SUPPORTED),
        ({"fan_in_fan_out": True}, NOT_SUPPORTED),
        ({"lora_bias": True}, NOT_SUPPORTED),
        ({"modules_to_save": None}, NOT_SUPPORTED),
        ({"modules_to_save": ["head", "norm"]}, NOT_SUPPORTED),
        ({"layer_replication": [[0, 2]]}, NOT_SUPPORTED),
        ({"target_parameters": ["blocks.0.attn.qkv.weight"]}, NOT_SUPPORTED),
        ({"trainable_token_indices": [1]}, NOT_SUPPORTED),
        ({"alora_invocation_tokens": [1]}, NOT_SUPPORTED),
        ({"use_qalora": True}, NOT_SUPPORTED),
        ({"use_bdlora": {"nblocks": 2}}, NOT_SUPPORTED),
        ({"arrow_config": {"top_k": 1}}, NOT_SUPPORTED),
        ({"kasa_config": {"beta": 1}}, NOT_SUPPORTED),
        ({"velora_config": {"scale": 1}}, NOT_SUPPORTED),
        ({"monteclora_config": {"num_samples": 1}}, NOT_SUPPORTED),
        ({"ensure_weight_tying": True}, NOT_SUPPORTED),
        ({"a_key_of_tomorrow": 1}, NOT_SUPPORTED),
        ({"rank_pattern": {"qkv": 3}}, "blocks.0.attn.qkv has rank 3, its tensors 4"),
        ({"r": 8}, "has rank 8, its tensors 4"),
        ({"target_modules": ["fc1"]}, "it does not target blocks.0.attn.qkv, of which there are tensors"),
        ({"exclude_modules": ["attn.qkv"]}, "it does not target blocks.0.attn.qkv"),
        ({"layers_to_transform": [1]}, "it does not target blocks.0"),
        ({"layers_to_transform": [1], "layers_pattern": "blocks"}, "it does not target blocks.0"),
        ({"layers_to_transform": "1"}, "should be indices"),
        ({"target_modules": None}, "no target_modules"),
        ({"target_modules": r"(.*a)*b"}, NOT_SUPPORTED),
        ({"target_modules": r"(?=x)y"}, NOT_SUPPORTED),
        ({"target_modules": r"(a)\1"}, NOT_SUPPORTED),
        ({"target_modules": "("}, NOT_SUPPORTED),
        ({"target_modules": {"a": 1}}, NOT_SUPPORTED),
        ({"alpha_pattern": {".*.*.*.*.*": 1}}, NOT_SUPPORTED),
        ({"alpha_pattern": {"a" * 300: 1}}, "alpha_pattern={"),
        ({"alpha_pattern": ["qkv"]}, NOT_SUPPORTED),
        ({"alpha_pattern": {"qkv": True}}, "should hold numbers"),
        ({"lora_alpha": float("nan")}, "no lora_alpha"),
        ({"lora_dropout": 2}, "lora_dropout=2 is no share below 1"),
        ({"lora_dropout": "x"}, "lora_dropout='x' is no share below 1"),
    ],
)  # fmt: skip
def test_what_is_not_exactly_peft_here_is_refused(values, reason, folder):
    path = folder / hf_peft.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(Unreadable) as error:
        hf_peft.Imported(folder)
    assert str(error.value).startswith(f"cannot read {path}: ")
    assert reason in str(error.value)


@pytest.mark.parametrize("key", ["peft_type", "lora_alpha", "modules_to_save", "target_modules"])
def test_what_a_config_must_say_is_missed(key, folder):
    path = folder / hf_peft.CONFIG
    said = json.loads(path.read_text())
    del said[key]
    path.write_text(json.dumps(said))
    with pytest.raises(Unreadable, match=key):
        hf_peft.Imported(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("base_model.model.blocks.0.attn.qkv.lora_A.weight", torch.full((4, 32), torch.nan), "NaN or infinity"),
        ("base_model.model.blocks.0.attn.qkv.lora_A.weight", torch.zeros(4), "has shape"),
        ("base_model.model.blocks.0.attn.qkv.lora_A.weight", torch.zeros(4, 32, dtype=torch.int8), "its type is I8"),
        ("base_model.model.head.bias", torch.zeros(4, 1), "has shape"),
    ],
)
def test_tensors_are_finite_floats_of_their_shape(name, tensor, reason, folder):
    save_file({**load_file(folder / hf_peft.WEIGHTS), name: tensor}, folder / hf_peft.WEIGHTS)
    with pytest.raises(Unreadable, match=reason):
        hf_peft.Imported(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"classes": []}', '{"classes": [3], "preprocessing": {}, "backbone": {}}', "[" * 9999]
)
def test_notes_are_whole_or_refused(text, folder):
    (folder / hf_peft.NOTES).write_text(text)
    with pytest.raises(Unreadable, match="remove it to go without"):
        hf_peft.Imported(folder)
