"""BitFit trains the biases, all of them and nothing else."""

import pytest

from conftest import tiny_vit
from reference import ARCHITECTURES, assert_changes_nothing, assert_computes, logits_with, randomised, size_on_vit_b16
from shipped import adapted


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_what_trains_is_whatever_timm_calls_a_bias(architecture):
    vit = adapted("bitfit", architecture=architecture).encoder.vit
    expected = {name for name, _ in tiny_vit(**architecture).named_parameters() if name.endswith(".bias")}
    assert {name for name, parameter in vit.named_parameters() if parameter.requires_grad} == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_logits_and_gradients_are_timms_with_these_biases(architecture, images):
    model = randomised("bitfit", architecture=architecture)
    biases = {name: bias for name, bias in model.encoder.vit.named_parameters() if bias.requires_grad}
    assert_computes(model, images, logits_with(model, architecture, biases, images))


def test_it_begins_as_the_backbone_is(images):
    assert_changes_nothing(adapted("bitfit"), images)


def test_a_backbone_with_few_biases_trains_those_that_it_has():
    model = adapted("bitfit", architecture={"qkv_bias": False, "proj_bias": False})
    assert model.parameter_counts().method == 32 + 3 * 2 * 32 + 32  # patches, norms


@pytest.mark.parametrize(
    ("layers", "count"), [("all", 102_912), ([5], 11 * 768), ("first-1", 12 * 768), ("last-1", 12 * 768)]
)
def test_parameters_on_vit_b16_are_counted(layers, count):
    assert size_on_vit_b16("bitfit", layers=layers) == count
