"""A model on a backbone in few bits computes, trains and merges as one on a backbone with the rounded matrices."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision import AdapterSet
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.frozen_weights import frozen_bytes, round_matrices
from peft_vision.backbone.merge import unmergeable
from peft_vision.backbone.quantized import QuantizedLinear
from peft_vision.core.config import ConfigError
from peft_vision.models.model import Model
from shipped import METHODS, adapted, adapted_to

pytest.importorskip("bitsandbytes")
TRAIN_MATRICES = ("full", "lp_ft", "partial")
KEEP_MATRICES = [method for method in METHODS if method not in TRAIN_MATRICES]
MORE = [("lora", {"dora": True}), ("lora", {"targets": ("qkv", "fc2"), "dropout": 0.3}), ("hf_peft", {})]
CASES = [(8, method, {}) for method in KEEP_MATRICES]
CASES += [(4, method, {}) for method in ("adapter_houlsby", "bitfit", "fact_tk", "lora", "ssf", "vpt_deep", "vqt_lora")]
CASES += [(bits, *more) for bits in (8, 4) for more in MORE]


def rounded(vit: nn.Module, bits: int) -> nn.Module:
    """A plain backbone with the matrices that few bits leave."""
    vit = copy.deepcopy(vit)
    shadow = Encoder(copy.deepcopy(vit))
    for path, packed in round_matrices(shadow, bits).items():
        vit.get_submodule(path).weight.data = packed.unpacked()
    return vit


def step(model: Model, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Logits and gradients."""
    torch.manual_seed(0)
    logits = model(images)
    F.cross_entropy(logits, labels).backward()
    return {"logits": logits.detach(), **{name: p.grad for name, p in model.trained().items() if p.requires_grad}}


@pytest.mark.parametrize(("bits", "method", "options"), CASES, ids=str)
def test_every_method_computes_on_the_rounded_matrices(bits, method, options, images, labels):
    vit = tiny_vit()
    ours = adapted_to(vit, method, frozen_bits=bits, **options)
    other = adapted_to(rounded(vit, bits), method, **options)
    held = [module for module in ours.encoder.vit.modules() if isinstance(module, QuantizedLinear)]
    assert len(held) == 4 * len(ours.encoder.layers)
    assert ours.parameter_counts() == other.parameter_counts()
    found, expected = step(ours, images, labels), step(other, images, labels)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, msg=lambda text, name=name: f"{name}: {text}", rtol=1e-4, atol=1e-5
        )
    assert ours.tuned_state().keys() == other.tuned_state().keys()
    assert ours.frozen == other.frozen
    assert not any("packed" in name for name in ours.state_dict())


@pytest.mark.parametrize("method", TRAIN_MATRICES)
def test_what_trains_matrices_is_refused_in_a_line(method):
    with pytest.raises(
        ConfigError, match=r"^backbone.frozen_bits: 4 is for matrices that do not train, and the method trains .*lora$"
    ):
        adapted(method, frozen_bits=4)


def test_a_backbone_without_linear_layers_and_other_bits_are_refused():
    import timm

    with pytest.raises(ConfigError, match="resnet10t have no linear layers to hold in 8 bit"):
        adapted_to(timm.create_model("resnet10t"), "lora", frozen_bits=8)
    with pytest.raises(ConfigError, match="frozen_bits: got 5"):
        adapted("lora", frozen_bits=5)


@pytest.mark.parametrize("method", ["linear", "lora", "ssf", "fact_tt", "repadapter", "bitfit", "hf_peft"])
def test_merged_it_is_a_plain_backbone_that_computes_the_same(method, images):
    model = adapted(method, frozen_bits=4).eval()
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.add_(0.03 * torch.randn_like(parameter))
    assert unmergeable(model.encoder) == []
    before = model(images)
    with peft_vision.merged(model) as vit:
        state = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
        torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(images), before)
    assert frozen_bytes(model.encoder).matrices == 4 * len(model.encoder.layers)
    plain = tiny_vit()
    plain.load_state_dict(state)
    with torch.no_grad():
        features = plain.eval()(model.normalize(images))
    torch.testing.assert_close(model.logits(features), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_saved_adapter_says_its_bits_and_loads_onto_the_plain_backbone(bits, images, tmp_path):
    vit, path = tiny_vit(), tmp_path / "adapter.safetensors"
    model = adapted_to(vit, "lora", frozen_bits=bits)
    step(model, images, torch.zeros(len(images), dtype=torch.long))
    peft_vision.save(model.eval(), path)
    again = peft_vision.load(path, vit)
    assert torch.equal(again(images), model(images))
    assert frozen_bytes(again.encoder) == frozen_bytes(model.encoder)
    assert again.recipe.frozen_bits == bits
    peft_vision.save(adapted_to(vit, "lora").eval(), path)
    assert peft_vision.load(path, vit).recipe.backbone.keys() == {"name", "hash"}  # as before there were bits


def test_in_a_set_each_adapter_computes_on_its_own_bits(images, tmp_path):
    vit, expected = tiny_vit(), {}
    adapters = AdapterSet(copy.deepcopy(vit))
    for name, bits in {"plain": None, "eight": 8, "four": 4}.items():
        model = adapted_to(vit, "lora", frozen_bits=bits)
        with torch.no_grad():
            for parameter in model.trained().values():
                parameter.add_(0.05)
        peft_vision.save(model.eval(), tmp_path / name)
        adapters.add(name, tmp_path / name)
        expected[name] = model(images)
    for name, logits in expected.items():
        torch.testing.assert_close(adapters(images, name), logits)
    names = [[*expected][index % 3] for index in range(len(images))]
    for index, (name, row) in enumerate(zip(names, adapters(images, names), strict=True)):
        torch.testing.assert_close(row, expected[name][index], rtol=1e-4, atol=1e-5)
