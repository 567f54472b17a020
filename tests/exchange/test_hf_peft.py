"""A LoRA travels to Hugging Face's `peft` and back with equal logits."""

import json
import pickle

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from variants import small

import peft_vision
from conftest import tiny_vit
from peft_vision.core.composition import option
from peft_vision.exchange import hf_peft
from peft_vision.models.adapter import load_tuned
from reference import randomised
from shipped import adapted, adapted_to

VARIANTS = {
    "q and v": {},
    "q, k and v": {"targets": ("q", "k", "v")},
    "the fused matrix": {"targets": ("qkv",)},
    "every matrix": {"targets": ("q", "v", "proj", "fc1", "fc2"), "rank": 4, "alpha": 16},
    "rank-stabilised": {"rank_stabilised": True, "targets": ("v", "fc1")},
    "a direction": {"dora": True, "targets": ("q", "v", "fc2")},
    "the last two layers": {"layers": "last-2", "targets": ("proj", "fc1")},
    "listed layers": {"layers": (1,), "dropout": 0.1},
}


def _lora_parts(parts: dict) -> dict:
    return {name: {**option("method", "lora"), **values} for name, values in parts.items()}


PRECISE = {"rtol": 1e-5, "atol": 1e-6}


def classifier() -> nn.Module:
    vit = tiny_vit()
    vit.reset_classifier(4)
    return vit


def rebuilt(folder) -> nn.Module:
    """Our model, from a folder of theirs."""
    imported = hf_peft.Imported(folder)
    spelled = imported.method()
    kind = "combined" if "parts" in spelled else "lora"
    model = peft_vision.adapt(tiny_vit(), method=kind, num_classes=imported.num_classes, **spelled)
    load_tuned(model, imported.tensors)
    return model.eval()


COMBINED = {
    "each on its own matrix": {"a": {"targets": ["q"]}, "b": {"targets": ["fc1"], "rank": 3}},
    "two on one matrix": {"a": {"targets": ["q"]}, "b": {"targets": ["v"]}},
    "with other ranks and scales": {"a": {"targets": ["q"], "rank": 3, "alpha": 5}, "b": {"targets": ["v", "q"]}},
    "three on the same rows": {f"rank{rank}": {"targets": ["qkv", "proj"], "rank": rank} for rank in (1, 2, 3)},
    "one a direction of other rows": {"a": {"targets": ["q"], "dora": True}, "b": {"targets": ["v"], "alpha": 3}},
}
VARIANTS = {
    **{name: ("lora", options) for name, options in VARIANTS.items()},
    **{name: ("combined", {"parts": _lora_parts(parts)}) for name, parts in COMBINED.items()},
}


@pytest.mark.parametrize(("method", "options"), VARIANTS.values(), ids=VARIANTS.keys())
def test_peft_computes_our_logits_and_we_read_them_back(method, options, images, tmp_path):
    model = randomised(method, **options)
    hf_peft.write(model, tmp_path)
    peft_model = peft.PeftModel.from_pretrained(classifier(), tmp_path).eval()
    torch.testing.assert_close(peft_model(images), model(images), **PRECISE)
    torch.testing.assert_close(rebuilt(tmp_path)(images), model(images), **PRECISE)


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 6, "target_modules": ["qkv"]},
        {"r": 4, "lora_alpha": 6, "target_modules": ["qkv", "fc1"], "use_rslora": True, "lora_dropout": 0.1},
        {"r": 4, "target_modules": ["proj"], "use_dora": True, "exclude_modules": "patch_embed.*"},
        {"r": 2, "target_modules": r"blocks\.[12]\.mlp\.fc2"},
        {
            "r": 4,
            "target_modules": ["qkv", "fc1"],
            "rank_pattern": {"fc1": 2, "blocks.1.attn.qkv": 3},
            "alpha_pattern": {"blocks.2.mlp.fc1": 5},
        },
    ],
    ids=["qkv", "rank-stabilised", "a direction", "two layers", "patterns"],
)
def test_what_peft_trained_computes_the_same_here(options, images, tmp_path):
    base = classifier()
    config = peft.LoraConfig(modules_to_save=["head"], init_lora_weights=False, **options)
    peft_model = peft.get_peft_model(base, config).eval()
    for name, parameter in peft_model.named_parameters():
        if "magnitude" in name:
            parameter.data.mul_(1.5)
    peft_model.save_pretrained(tmp_path)
    torch.testing.assert_close(rebuilt(tmp_path)(images), peft_model(images), **PRECISE)


@pytest.mark.parametrize("method", ["bitfit", "vpt_lora", "vqt_lora", "linear"])
def test_more_than_a_lora_is_refused(method, tmp_path):
    with pytest.raises(ValueError, match=r"the format is for LoRA alone|reads more than"):
        hf_peft.write(adapted(method), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "name"), [(["lora", "bitfit"], r"\S+bias"), (["lora", "ssf"], r"\S+(scale|shift)")], ids=str
)
def test_what_else_was_tuned_of_a_matrix_with_a_lora_is_refused(parts, name, tmp_path):
    for order in (parts, parts[::-1]):
        with pytest.raises(ValueError, match=f"this run tuned {name}$"):
            hf_peft.write(adapted("combined", parts=order), tmp_path)


def test_what_peft_would_compute_otherwise_is_refused(tmp_path):
    parts = _lora_parts({"a": {"targets": ["q"], "dora": True}, "b": {"targets": ["qkv"]}})
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv: DoRA and another update of the same rows"):
        hf_peft.write(adapted("combined", parts=parts), tmp_path)
    model = adapted("lora", dora=True)
    model.encoder.layers[2].attn.qkv.inner.weight.data[7] = 0
    with pytest.raises(ValueError, match=r"blocks\.2\.attn\.qkv has a row of zeros, which peft divides by"):
        hf_peft.write(model, tmp_path)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("BEiT", r"timm reads blocks\.0\.attn\.qkv\.weight past what peft puts around that module"),
        ("EVA", r"timm reads blocks\.0\.attn\.qkv\.weight past what peft puts around that module"),
        ("DINOv3 with biases", r"timm reads blocks\.0\.attn\.qkv\.weight past what peft puts around that module"),
        ("distilled DeiT", "this backbone classifies by head and head_dist"),
    ],
)
def test_what_timm_itself_would_not_compute_is_refused(variant, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        hf_peft.write(adapted_to(small(variant), "lora"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("variant", "targets"), [("BEiT", ("proj", "fc1")), ("EVA", ("fc2",)), ("DINOv3", ("q", "v"))])
def test_peft_computes_our_logits_on_other_backbones(variant, targets, images, tmp_path):
    model = adapted_to(small(variant), "lora", targets=targets, initial="backbone").eval()
    hf_peft.write(model, tmp_path)
    base = small(variant)
    base.reset_classifier(4)
    peft_model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(peft_model(images), model(images), **PRECISE)


@pytest.fixture
def folder(tmp_path):
    hf_peft.write(randomised("lora", targets=("qkv",)), tmp_path)
    return tmp_path


def changed(folder, **values: object) -> None:
    path = folder / hf_peft.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "BOFT"}, "BOFT, where only LORA can be read"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication=.* is not supported"),
        ({"modules_to_save": ["head", "norm"]}, "modules_to_save=.* is not supported"),
        ({"alpha_pattern": {"(a+)+": 1}}, "alpha_pattern=.* is not supported"),
        ({"alpha_pattern": {"qkv": "__import__"}}, "alpha_pattern=.* should hold numbers"),
        ({"lora_alpha": None}, "no lora_alpha"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(values, message, folder):
    changed(folder, **values)
    with pytest.raises(ValueError, match=message):
        hf_peft.Imported(folder)


def test_a_tensor_of_another_kind_is_refused_by_name(folder):
    tensors = load_file(folder / hf_peft.WEIGHTS)
    save_file({**tensors, "base_model.model.blocks.0.norm1.lora_A.weight": torch.ones(2, 2)}, folder / hf_peft.WEIGHTS)
    with pytest.raises(ValueError, match=r"blocks\.0\.norm1\.lora_A\.weight is no LoRA of attn\.qkv"):
        hf_peft.Imported(folder)


def test_without_a_classifier_it_is_refused(folder):
    tensors = {name: t for name, t in load_file(folder / hf_peft.WEIGHTS).items() if "head" not in name}
    save_file(tensors, folder / hf_peft.WEIGHTS)
    with pytest.raises(ValueError, match="holds no classifier"):
        hf_peft.Imported(folder)


def test_pickled_weights_are_not_opened(folder):
    class Hostile:
        def __reduce__(self):
            return (folder.joinpath("ran").write_text, ("code ran",))

    (folder / hf_peft.WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="other formats may run code"):
        hf_peft.Imported(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("content", ["", "[]", "{not json"])
def test_a_config_that_is_none_is_refused(content, folder):
    (folder / hf_peft.CONFIG).write_text(content)
    with pytest.raises(ValueError, match=hf_peft.CONFIG):
        hf_peft.Imported(folder)


def test_a_cut_off_file_is_refused(folder):
    path = folder / hf_peft.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot read"):
        hf_peft.Imported(folder)
