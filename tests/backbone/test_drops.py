"""What the backbone is asked to drop is dropped in training as timm drops it, also where all around it is frozen."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import peft_vision
from command import SMOKE, call
from conftest import tiny_vit
from peft_vision.backbone.attention import look, update
from peft_vision.backbone.drops import drops
from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError
from peft_vision.models.model import Model
from peft_vision.training.probe import check_drops
from shipped import METHODS, adapted

RATES = {
    "drop_path_rate": "backbone.drop_path",
    "pos_drop_rate": "backbone.architecture.pos_drop_rate",
    "proj_drop_rate": "backbone.architecture.proj_drop_rate",
    "attn_drop_rate": "backbone.architecture.attn_drop_rate",
    "drop_rate": "backbone.architecture.drop_rate",
}
ALL = dict.fromkeys(RATES, 0.4)
HEAD_ALONE = {"linear", "head2toe"}
NEVER = {*HEAD_ALONE, "lp_ft"}  # the last asks for evaluation mode itself


def drawn(compute: Callable[[Tensor], Tensor], images: Tensor, *, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return compute(images)


def varies(model: Model, images: Tensor) -> bool:
    return not torch.equal(drawn(model, images), drawn(model, images, seed=1))


@pytest.mark.parametrize(
    "architecture",
    [
        *({rate: 0.4, "global_pool": "avg"} for rate in RATES),
        {**ALL, "global_pool": "avg"},
        {**ALL, "global_pool": "avg", "qk_norm": True, "init_values": 0.1, "reg_tokens": 2},
        {"drop_path_rate": 0.4, "pos_drop_rate": 0.4},  # a class token's last layer draws for fewer rows
    ],
    ids=lambda architecture: ",".join(architecture),
)
def test_features_and_gradients_are_timms_of_the_same_random_numbers(architecture, images):
    vit = tiny_vit(**architecture).train()
    encoder = Encoder(copy.deepcopy(vit)).train()
    expected, features = drawn(vit, images), drawn(encoder, images)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(features, drawn(encoder, images, seed=1), rtol=1e-3)
    expected.square().sum().backward()
    features.square().sum().backward()
    timms = dict(vit.named_parameters())
    for name, parameter in encoder.vit.named_parameters():
        torch.testing.assert_close(parameter.grad, timms[name].grad, rtol=1e-4, atol=1e-4, msg=name)


def test_a_frozen_backbone_drops_as_one_that_trains(images):
    vit = tiny_vit(**ALL, global_pool="avg").requires_grad_(False)
    torch.testing.assert_close(drawn(Encoder(copy.deepcopy(vit)).train(), images), drawn(vit.train(), images))


def assert_acts_or_is_refused(method: str, rates: dict, images: Tensor, key: str) -> None:
    model = adapted(method, architecture=rates)
    switch_own_dropout_off(model)
    assert varies(model, images) is (method not in NEVER)
    assert not varies(model.eval(), images)
    if method not in NEVER:
        return check_drops(model, method=method)
    with pytest.raises(ConfigError, match=f"^{key}: above 0, but "):
        check_drops(model, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_with_every_method_it_acts_in_training_or_is_refused(method, images):
    assert_acts_or_is_refused(method, ALL, images, "backbone.architecture.attn_drop_rate")
    check_drops(adapted(method), method=method)  # nothing is asked for


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("method", ["lora", "vqt", "linear", "lp_ft"])
def test_each_rate_acts_in_training_or_is_refused_by_its_name(method, rate, images):
    assert_acts_or_is_refused(method, {rate: 0.4}, images, RATES[rate])


def switch_own_dropout_off(model: Model) -> None:
    """What a method itself drops, so that all that is left is the backbone's."""
    backbone_modules = set(model.encoder._backbone)
    for module in model.modules():
        if drops(module) and module not in backbone_modules:
            module.p = module.drop_prob = 0.0


@pytest.mark.parametrize("method", ["lora", "partial", "vpt_deep", "vqt"])
def test_nothing_else_of_a_frozen_backbone_leaves_evaluation_mode(method):
    model = adapted(method, architecture={**ALL, "init_values": 0.1})
    backbone_modules = model.encoder._backbone
    assert any(module.training for module in backbone_modules)
    assert all(module.training is drops(module) for module in backbone_modules)
    assert not any(module.training for module in model.eval().modules())


@pytest.mark.parametrize("method", sorted(HEAD_ALONE))
def test_where_the_head_alone_trains_all_else_is_in_evaluation_mode(method, images):
    model = adapted(method, architecture=ALL)
    assert not any(module.training for stage in (model.encoder, model.readout) for module in stage.modules())
    assert model.head.training
    assert not varies(model, images)
    assert model.frozen == model.readout.reads


def test_a_probe_in_front_reads_features_that_nothing_is_dropped_from(images):
    options = {"method": "lora", "probe_first": True, "dropout": 0.5}
    model = peft_vision.adapt(tiny_vit(**ALL), num_classes=4, **options).train()
    assert model.phase.group == "probe"
    assert not varies(model, images)
    model.begin_next_phase(seed=0)
    assert varies(model, images)


@pytest.mark.parametrize(
    ("method", "options", "rates", "frozen", "depth"),
    [
        ("lora", {"layers": "last-1"}, {}, {"tokens"}, 2),
        ("lora", {"layers": "last-1"}, {"drop_path_rate": 0.1}, {"tokens"}, 1),  # the first layer's rate is 0
        ("lora", {"layers": "last-1"}, {"proj_drop_rate": 0.1}, None, 0),
        ("lora", {"layers": "last-1"}, {"pos_drop_rate": 0.1}, None, 0),
        ("lora", {"layers": "last-1"}, {"drop_rate": 0.1}, {"tokens"}, 2),  # it drops what leaves the last
        ("vqt", {}, {}, {"features", "contexts"}, 3),
        ("vqt", {}, {"drop_path_rate": 0.1}, None, 1),
        ("linear", {}, {"drop_path_rate": 0.1}, {"features"}, 1),
    ],
)
def test_what_may_be_computed_once_ends_where_dropping_begins(method, options, rates, frozen, depth):
    model = adapted(method, architecture=rates, **options)
    assert (model.frozen and set(model.frozen), model.depth) == (frozen, depth)


def test_features_are_chosen_and_read_again_without_dropping(images):
    model = adapted("vqt", architecture=ALL, keep_fraction=0.5, dropout=0.0)
    assert (model.frozen, varies(model, images)) == (None, True)
    for _ in ("select", "retrain"):
        model.begin_next_phase(seed=0)
        assert (model.frozen, varies(model, images)) == (model.readout.reads, False)


def test_queries_that_look_drop_attention_weights_as_rows_of_an_image_do():
    vit = tiny_vit(attn_drop_rate=0.4).train()
    layer = Encoder(vit).layers[0]
    queries, context = torch.randn(5, 2, 32), torch.randn(5, 6, 32)
    torch.manual_seed(0)
    found = look(layer, queries, context)
    torch.manual_seed(0)
    torch.testing.assert_close(found, update(layer, queries, layer.norm1(queries), context))
    assert not torch.allclose(found, look(layer, queries, context))


@pytest.mark.parametrize("branch", ["beside_attention", "beside_mlp"])
def test_a_bypass_is_left_out_of_whole_images_or_doubled(branch):
    model = adapted("convpass", architecture={"drop_path_rate": 0.5}, dropout=0.0)
    bypass = getattr(model.encoder.layers[-1], branch)[0]
    nn.init.normal_(bypass.up.weight)
    tokens = torch.randn(64, 17, 32)
    found = drawn(partial(bypass, tokens), tokens)
    kept = found.abs().amax(dim=(1, 2)) > 0
    assert 16 < kept.sum() < 48
    model.eval()
    torch.testing.assert_close(found[kept], 2 * bypass(tokens, tokens)[kept])


def test_a_rate_that_could_not_act_ends_a_run_before_it_trains(tmp_path):
    outcome = call(*SMOKE, "method=linear", "backbone.drop_path=0.1", cwd=tmp_path)
    assert outcome.code == 1
    assert outcome.error.startswith("backbone.drop_path: above 0, but linear trains the head alone")


def test_what_is_not_stored_because_it_is_dropped_from_is_said(tmp_path):
    outcome = call(*SMOKE, "method=vqt", "backbone.drop_path=0.1", "features.use=always", cwd=tmp_path)
    assert outcome.error.startswith("features.use=always: backbone.drop_path is above 0, so features change")
