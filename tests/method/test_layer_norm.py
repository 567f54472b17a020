"""LayerNorm tuning trains the norms, all of them and nothing else."""

import pytest
from torch import nn

from conftest import tiny_vit
from reference import ARCHITECTURES, assert_changes_nothing, assert_computes, logits_with, randomised, size_on_vit_b16
from shipped import adapted

VARIANTS = {**ARCHITECTURES, "norm before the blocks": {"pre_norm": True}, "attention pooling": {"global_pool": "map"}}


@pytest.mark.parametrize("architecture", VARIANTS.values(), ids=VARIANTS.keys())
def test_what_trains_is_every_norm_of_timm(architecture):
    vit = adapted("layer_norm", architecture=architecture).encoder.vit
    norms = {name for name, module in tiny_vit(**architecture).named_modules() if isinstance(module, nn.LayerNorm)}
    expected = {f"{name}.{each}" for name in norms for each in ("weight", "bias")}
    assert {name for name, parameter in vit.named_parameters() if parameter.requires_grad} == expected


@pytest.mark.parametrize("architecture", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_and_gradients_are_timms_with_these_norms(architecture, images):
    model = randomised("layer_norm", architecture=architecture)
    norms = {name: each for name, each in model.encoder.vit.named_parameters() if each.requires_grad}
    assert_computes(model, images, logits_with(model, architecture, norms, images))


def test_it_begins_as_the_backbone_is(images):
    assert_changes_nothing(adapted("layer_norm"), images)


@pytest.mark.parametrize(
    ("layers", "count"), [("all", 38_400), ([5], 4 * 768), ("first-1", 4 * 768), ("last-1", 6 * 768)]
)
def test_parameters_on_vit_b16_are_counted(layers, count):
    assert size_on_vit_b16("layer_norm", layers=layers) == count
