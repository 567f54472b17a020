"""Any other timm image model: features are timm's, and every method that it does not lack trains what it tunes."""

import copy

import pytest
import timm
import torch
from any_variants import ANY, FIXED, small_any
from torch import nn
from torch.nn import functional as F

import peft_vision
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.merge import merged, unmergeable
from peft_vision.core.composition import complete, option
from peft_vision.core.config import ConfigError, build
from peft_vision.method.base import Method
from peft_vision.models.model import Model
from shipped import adapted_to, train

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(4)
METHODS = ("linear", "full", "lp_ft", "partial", "bitfit", "layer_norm", "ssf", "lora")
FEW = ("layer_norm", "ssf", "lora")
MORE = {"ResNet": METHODS, **dict.fromkeys(("CLIP's ResNet", "Hiera"), ("full", "partial", "bitfit", *FEW))}
MORE |= dict.fromkeys(("ResNet with bottlenecks", "RegNet", "MaxViT"), ("ssf", "lora"))  # norms of others' classes
PAIRS = [(variant, method) for variant in ANY for method in MORE.get(variant, FEW)]
SAVED = ("full", "ssf")  # of the others a file is not another one for another model
OPTIONS = {"lora": {"rank": 2}}
BOTH_BATCH_NORMS = ("ResNet", "CLIP's ResNet")  # whose norms are of torch's class, and of timm's
WITH_BATCH_NORM = ("ResNet", "CLIP's ResNet", "RegNet", "EfficientNet", "MaxViT")


def adapted(variant: str, method: str, **options: object) -> Model:
    return adapted_to(small_any(variant), method, **options)


@pytest.mark.parametrize("variant", ["Hiera", "MaxViT"])
def test_a_model_of_another_size_than_its_record_says_is_adapted_and_read_back(variant, tmp_path):
    model = adapted_to(small_any(variant, recorded=True), "lora", rank=2).eval()
    peft_vision.save(model, tmp_path / "adapter.safetensors")
    again = peft_vision.load(tmp_path / "adapter.safetensors", small_any(variant, recorded=True))
    assert again.encoder.image_size == model.encoder.image_size == model.preprocessing.sides
    assert torch.equal(again(IMAGES), model(IMAGES))


@pytest.mark.parametrize("recorded", [False, True], ids=["64 px", "as recorded"])
@pytest.mark.parametrize("variant", ANY)
def test_features_are_timms_and_no_name_changes(variant, recorded):
    model = small_any(variant, recorded=recorded).eval()
    encoder = Encoder(copy.deepcopy(model))
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), model(IMAGES))
        if variant not in FIXED:
            other = IMAGES[..., :48, :32]
            assert torch.equal(encoder(other), model(other))
    assert encoder.width == model(IMAGES[:1]).shape[1]
    assert list(encoder.vit.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("variant", ANY)
def test_stages_stem_and_end_divide_the_parameters(variant):
    encoder = Encoder(small_any(variant))
    last = len(encoder.layers) - 1
    assert last > 0
    parts = [encoder.parts([index]) for index in range(last + 1)]
    found = [
        parameter
        for part in parts
        for member in part
        for parameter in ([member] if isinstance(member, nn.Parameter) else member.parameters())
    ]
    assert len(found) == len(set(found))
    assert set(found) == set(encoder.vit.parameters())


@pytest.mark.parametrize(("variant", "method"), PAIRS)
def test_a_method_trains_what_it_tunes_and_nothing_else_and_is_saved_and_merged(variant, method, tmp_path):
    if (variant, method) == ("without norms", "layer_norm"):
        with pytest.raises(ConfigError, match="layer_norm trains norms, and these layers of test_nfnet have none"):
            adapted(variant, method, **OPTIONS.get(method, {}))
        return
    model = adapted(variant, method, **OPTIONS.get(method, {}))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, IMAGES, LABELS)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    state = model.state_dict()
    moved = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
    tuned = set(model.tuned_state())
    assert moved <= tuned
    assert {name for name in tuned - moved if state[name].is_floating_point()} == set()
    model.eval()
    with torch.no_grad():
        if method in SAVED:
            logits = model(IMAGES)
            peft_vision.save(model, tmp_path / "adapter.safetensors")
            assert torch.equal(peft_vision.load(tmp_path / "adapter.safetensors", small_any(variant))(IMAGES), logits)
        assert unmergeable(model.encoder) == []
        features = model.encoder(IMAGES)
        with merged(model.encoder):
            torch.testing.assert_close(model.encoder(IMAGES), features, rtol=1e-4, atol=1e-4)
        with peft_vision.merged(model) as plain:
            timms = small_any(variant)
            timms.load_state_dict(plain.state_dict())
        torch.testing.assert_close(timms.eval()(IMAGES), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["ResNet", "CLIP's ResNet", "EfficientNet", "Hiera", "MaxViT"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointing_changes_no_gradient_and_no_statistic(variant, method):
    plain = adapted(variant, method, **OPTIONS.get(method, {}))
    recomputed = copy.deepcopy(plain)
    recomputed.encoder.set_checkpointing(True)
    for model in (plain, recomputed):
        torch.manual_seed(0)
        F.cross_entropy(model(IMAGES), LABELS).backward()
    for name, parameter in plain.trained().items():
        torch.testing.assert_close(recomputed.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)
    for name, tensor in plain.named_buffers():
        assert torch.equal(recomputed.get_buffer(name), tensor), name


@pytest.mark.parametrize("variant", WITH_BATCH_NORM)
def test_statistics_of_batch_norms_move_only_where_all_trains_in_training_mode(variant):
    still = ("partial", "lp_ft", "layer_norm") if variant in BOTH_BATCH_NORMS else ("partial",)
    for method, moves in (("full", True), *((method, False) for method in still)):
        model = adapted(variant, method, **OPTIONS.get(method, {}))
        before = {name: tensor.clone() for name, tensor in model.encoder.named_buffers()}
        train(model, IMAGES, LABELS, steps=1)
        moved = [name for name, tensor in model.encoder.named_buffers() if not torch.equal(tensor, before[name])]
        assert bool(moved) == moves, method
        assert all("running_" in name or name.endswith("num_batches_tracked") for name in moved)


def test_partial_trains_the_last_stage_of_a_resnet_and_nothing_before_it():
    names = {name.split(".")[2] for name in adapted("ResNet", "partial").trained() if name.startswith("encoder")}
    assert names == {"layer4"}


def test_lora_updates_all_linear_layers_and_pointwise_convolutions_of_the_stages_by_itself():
    added = adapted("CLIP's ResNet", "lora", rank=4).encoder.added()
    wrapped = {name for name, module in added.items() if hasattr(module, "down")}
    places = ("conv1_1x1.conv", "conv3_1x1.conv", "shortcut.conv.conv")
    assert wrapped == {f"stages.{index}.0.{place}" for index in range(4) for place in places}


def test_lora_updates_what_patterns_name():
    model = adapted("Hiera", "lora", targets=["*.fc1", "blocks.1.*"], rank=2)
    wrapped = {name for name, module in model.encoder.added().items() if hasattr(module, "down")}
    assert {f"blocks.{index}.mlp.fc1" for index in range(4)} <= wrapped
    assert all(name.endswith(".fc1") or name.startswith("blocks.1.") for name in wrapped)


def test_patterns_add_to_standard_names_of_a_vit(tmp_path):
    vit = timm.create_model("test_vit", num_classes=0)
    model = peft_vision.adapt(vit, method="lora", num_classes=4, targets=["q", "*.fc1", "*.qkv"], rank=2)
    wrapped = {name: set(module.down) for name, module in model.encoder.added().items() if hasattr(module, "down")}
    assert set(map(frozenset, wrapped.values())) == {frozenset({"q"}), frozenset({"matrix"})}
    assert {name.rpartition(".")[2] for name, keys in wrapped.items() if keys == {"matrix"}} == {"fc1"}


def test_a_pattern_that_names_nothing_and_a_name_that_is_none_are_refused():
    with pytest.raises(ConfigError, match=r"no matrix of resnet18 with sides of 8 or more matches \*\.fc9; its matri"):
        adapted("ResNet", "lora", targets=["*.fc9"])
    with pytest.raises(ConfigError, match="layer 0 has no fc1; it has patterns of paths such as"):
        adapted("ResNet", "lora", targets=["fc1"])
    with pytest.raises(ConfigError, match=r"method\.dora: .* is a convolution"):
        adapted("ResNet", "lora", dora=True)


@pytest.mark.parametrize("method", ["vpt_deep", "vqt", "head2toe", "adaptformer", "fact_tt"])
def test_a_method_that_needs_tokens_says_why_not_in_one_line(method):
    with pytest.raises(ConfigError, match=r"method: it needs .*; resnet18 (is computed by|has no).* lora") as caught:
        adapted("ResNet", method)
    assert "\n" not in str(caught.value)


def test_a_model_without_features_of_an_image_is_refused():
    with pytest.raises(ConfigError, match="no family matches Linear: timm's Linear has no forward_features and no"):
        Encoder(nn.Linear(2, 2))


def test_a_vit_that_its_own_family_does_not_know_is_any_model():
    vit = timm.create_model("test_vit", num_classes=0, patch_drop_rate=0.5)
    with pytest.raises(ConfigError, match=r"it needs tokens .*\(it drops patches"):
        peft_vision.adapt(vit, method="vpt_deep", num_classes=4)
    peft_vision.adapt(vit, method="lora", num_classes=4)


@pytest.mark.parametrize(("name", "method"), [("convit_tiny", "lora"), ("davit_tiny", "ssf")])
def test_timms_forward_may_ask_a_wrapper_what_it_asks_of_the_plain_module(name, method):
    """ConViT asks a matrix for its device, DaViT a convolution for the size of its kernel."""
    with torch.device("meta"):
        encoder = Encoder(timm.create_model(name, num_classes=0)).eval()
        build(complete(option("method", method)), Method, "method").attach(encoder)
        assert encoder(torch.empty(1, 3, 224, 224)).shape == (1, encoder.width)
    assert encoder.added()
