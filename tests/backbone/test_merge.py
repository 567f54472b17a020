"""What can be merged leaves a backbone that timm itself loads; what cannot is named and stays."""

import copy

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_vit
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Mergeable
from peft_vision.backbone.merge import merged, unmergeable
from peft_vision.method.lora import LowRankUpdate
from reference import ARCHITECTURES, fused_rows, randomised

EVERYWHERE = ["q", "k", "v", "proj", "fc1", "fc2"]
MERGEABLE = [
    ("linear", {}),
    ("lora", {}),
    ("lora", {"targets": EVERYWHERE}),
    ("lora", {"targets": ["qkv", "fc2"], "rank_stabilised": True}),
    ("lora", {"dora": True}),
    ("lora", {"targets": EVERYWHERE, "dora": True}),
    ("lora", {"targets": ["qkv"], "dora": True, "layers": "last-1"}),
    ("fact_tt", {}),
    ("fact_tk", {}),
    ("repadapter", {}),
    ("repadapter", {"groups": 4, "layers": [1]}),
    ("ssf", {}),
    ("ssf", {"layers": "last-1"}),
    ("bitfit", {}),
    ("layer_norm", {}),
    ("partial", {}),
    ("full", {}),
    ("combined", {"parts": ["lora", "ssf"]}),
    ("combined", {"parts": ["ssf", "lora"]}),
    ("combined", {"parts": ["fact_tt", "lora"]}),
    ("combined", {"parts": ["lora", "fact_tk", "ssf"]}),
    ("combined", {"parts": ["repadapter", "bitfit"]}),
    ("combined", {"parts": ["lora", "repadapter"]}),
    ("combined", {"parts": {"lora": {"dora": True}, "bitfit": {}, "layer_norm": {}}}),
    ("combined", {"parts": ["fact_tt", "repadapter", "ssf", "lora"], "layers": [0, 2]}),
    ("combined", {"parts": ["lora", "vqt"]}),
]
STAYS = {  # names in a layer
    "adapter_houlsby": ["ls1", "ls2"],
    "adapter_pfeiffer": ["ls2"],
    "adaptformer": ["beside_mlp.0"],
    "adapter_plus": ["behind.0"],
    "convpass": ["beside_attention.0", "beside_mlp.0"],
    "vpt_deep": ["context"],
    "vpt_lora": ["context"],
    "vqt_adaptformer": ["beside_mlp.0"],
}


def assert_merges(method: str, architecture: dict, images: Tensor, **options: object) -> None:
    """The merged backbone is timm's, gives the same features, and is gone afterwards."""
    model = randomised(method, architecture=architecture, **options)
    before, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    logits, features = model(images), model.encoder(images)
    assert unmergeable(model.encoder) == []
    with merged(model.encoder):
        state = {name: tensor.clone() for name, tensor in model.encoder.vit.state_dict().items()}
        torch.testing.assert_close(model.encoder(images), features, rtol=1e-5, atol=1e-5)
    vit = tiny_vit(**architecture)
    vit.load_state_dict(state, strict=True)
    torch.testing.assert_close(vit(images), features, rtol=1e-5, atol=1e-5)
    assert list(state) == list(vit.state_dict())
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(images), logits)


@pytest.mark.parametrize(("method", "options"), MERGEABLE, ids=str)
def test_the_merged_backbone_is_timms_and_gives_the_same_features(method, options, images):
    assert_merges(method, {}, images, **options)


@pytest.mark.parametrize("parts", [["lora", "ssf"], ["fact_tt", "repadapter"]], ids=",".join)
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_every_variant_of_the_backbone_is_merged(architecture, parts, images):
    assert_merges("combined", architecture, images, parts=parts)


@pytest.mark.parametrize("targets", [["q", "v"], EVERYWHERE], ids=",".join)
@pytest.mark.parametrize("method", ["lora", "fact_tt"])
def test_a_backbone_without_biases_gets_none(method, targets, images):
    options = {"targets": targets} if method == "lora" else {}
    assert_merges(method, {"qkv_bias": False, "proj_bias": False}, images, **options)


def test_merging_a_double_precision_backbone_leaves_its_weights_alone(images):
    model = randomised("lora", targets=EVERYWHERE, dora=True).double()
    before, features = copy.deepcopy(model.state_dict()), model.encoder(images.double())
    with merged(model.encoder):
        torch.testing.assert_close(model.encoder(images.double()), features, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_was_merged_does_not_train_and_takes_no_dropout(images):
    model = randomised("lora", dropout=0.5).train()
    with merged(model.encoder):
        assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
        assert torch.equal(model.encoder(images), model.encoder(images))
    assert any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert not torch.equal(model.encoder(images), model.encoder(images))


def test_after_an_error_within_the_block_all_is_as_it_was(images):
    model = randomised("combined", parts=["lora", "ssf"])
    modules, logits = dict(model.named_modules()), model(images)
    with pytest.raises(KeyError), merged(model.encoder):
        raise KeyError
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(images), logits)


@pytest.mark.parametrize(("method", "names"), STAYS.items(), ids=STAYS)
def test_what_cannot_be_merged_is_named_once_for_each_place(method, names):
    expected = [f"blocks.{index}.{name}" for index in range(3) for name in names]
    assert sorted(unmergeable(randomised(method).encoder)) == expected


def test_prompts_that_travel_are_named_where_they_enter():
    assert unmergeable(randomised("vpt_shallow", layers="last-2").encoder) == ["blocks.1.entrance"]


@pytest.mark.parametrize("parts", [["adaptformer", "lora"], ["ssf", "convpass"], ["vpt_deep", "fact_tt"]], ids=str)
def test_what_cannot_be_merged_stays_and_the_rest_is_merged(parts, images):
    model = randomised("combined", parts=parts)
    before, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    logits, strangers = model(images), unmergeable(model.encoder)
    assert strangers != []
    with merged(model.encoder):
        assert not any(isinstance(module, Mergeable) for module in model.encoder.modules())
        for name in strangers:
            assert model.encoder.vit.get_submodule(name) is modules[f"encoder.vit.{name}"]
        torch.testing.assert_close(model(images), logits, rtol=1e-5, atol=1e-5)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(images), logits)


def test_a_wrapper_around_something_that_cannot_be_merged_stays(vit, images):
    encoder = Encoder(vit).eval()
    attention, other = encoder.layers[1].attn, encoder.layers[1].mlp

    class Squared(nn.Linear):
        def forward(self, tokens):
            return super().forward(tokens).square()

    attention.qkv = LowRankUpdate(Squared(32, 96), fused_rows(96, "q"), 2, scale=1.0, dropout=0.0, dora=False)
    attention.qkv = outer = LowRankUpdate(attention.qkv, fused_rows(96, "v"), 2, scale=1.0, dropout=0.0, dora=False)
    other.fc1 = LowRankUpdate(other.fc1, fused_rows(128, "fc1"), 2, scale=1.0, dropout=0.0, dora=False)
    assert unmergeable(encoder) == ["blocks.1.attn.qkv.inner.inner"]
    expected = encoder(images)
    with merged(encoder):
        assert attention.qkv is outer
        assert type(other.fc1) is nn.Linear
        assert torch.equal(encoder(images), expected)  # the update is still zero
    assert type(other.fc1) is LowRankUpdate
