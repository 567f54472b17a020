"""Full fine-tuning, and of the last layers alone: what trains is timm's own, with timm's gradients."""

import pytest

from conftest import tiny_vit
from reference import assert_changes_nothing, assert_computes, logits_with, randomised, size_on_vit_b16
from shipped import adapted


def trained(**options: object) -> set[str]:
    vit = adapted("full", **options).encoder.vit
    return {name for name, parameter in vit.named_parameters() if parameter.requires_grad}


def names(*beginnings: str, **architecture: object) -> set[str]:
    """timm's names that begin so."""
    return {name for name, _ in tiny_vit(**architecture).named_parameters() if name.startswith(beginnings)}


def test_with_all_layers_everything_trains():
    assert trained() == trained(layers="first-3") == trained(layers=[0, 1, 2]) == names("")


@pytest.mark.parametrize(
    ("pool", "behind"), [("token", ("norm.",)), ("avg", ("fc_norm.",)), ("map", ("norm.", "attn_pool.", "fc_norm."))]
)
def test_the_last_layers_train_with_what_stands_behind_them(pool, behind):
    architecture = {"global_pool": pool}
    assert trained(architecture=architecture, layers="last-1") == names("blocks.2.", *behind, **architecture)
    assert trained(architecture=architecture, layers="last-2") == names(
        "blocks.1.", "blocks.2.", *behind, **architecture
    )


def test_the_first_layers_train_with_what_stands_before_them():
    architecture = {"pre_norm": True, "reg_tokens": 2}
    before = ("cls_token", "reg_token", "pos_embed", "patch_embed.", "norm_pre.")
    assert trained(architecture=architecture, layers="first-1") == names("blocks.0.", *before, **architecture)


def test_a_layer_in_the_middle_trains_alone():
    assert trained(layers=[1]) == names("blocks.1.")


@pytest.mark.parametrize("method", ["partial", "full"])
def test_logits_and_gradients_are_timms_with_these_weights(method, images):
    model = randomised(method)
    weights = {name: each for name, each in model.encoder.vit.named_parameters() if each.requires_grad}
    assert_computes(model, images, logits_with(model, {}, weights, images))


@pytest.mark.parametrize("method", ["partial", "full"])
def test_it_begins_as_the_backbone_is(method, images):
    assert_changes_nothing(adapted(method), images)


def test_partial_1_on_vit_b16_trains_one_layer_and_the_final_norm():
    of_linear_layers = 12 * 768**2 + 9 * 768
    assert size_on_vit_b16("partial") == of_linear_layers + 3 * 2 * 768
