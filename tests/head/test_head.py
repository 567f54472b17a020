"""How a head begins, and what it computes in."""

import pytest
import torch

from peft_vision.head.base import Head
from peft_vision.objective.single_label import Predictions
from peft_vision.shift.models import score
from peft_vision.training.evaluate import judged
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_trainer import ALONE, PLAIN, random_images


def weight(std, num_classes):
    torch.manual_seed(0)
    classifier = Head(norm="none", hidden=(), dropout=0.0, std=std).build(4096, num_classes)[-1]
    assert torch.equal(classifier.bias, torch.zeros(num_classes))
    return classifier.weight.detach()


@pytest.mark.parametrize("change", [{"norm": "layer"}, {"norm": "batch"}, {"hidden": (3,)}, {"dropout": 0.1}])
def test_a_head_is_linear_where_nothing_else_acts(change):
    plain = {"norm": "none", "hidden": (), "dropout": 0.0, "std": 0.01}
    assert Head(**plain).is_linear
    assert not Head(**{**plain, **change}).is_linear


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_a_model_in_its_mode(training):
    model = adapted("lora").train(training)
    judged(model, random_images(5), Trainer(**PLAIN).inference("scoring", workers=0, world=ALONE))
    assert model.training is training
    assert model.head.training is training


def test_its_weights_spread_as_asked():
    assert weight(0.05, 10).std().item() == pytest.approx(0.05, rel=0.02)


def test_a_spread_of_nothing_is_all_zeros():
    assert not weight(0, 10).any()


@pytest.mark.parametrize(("num_classes", "std"), [(2, 1.0), (8, 0.5), (200, 0.1)])
def test_fan_out_is_what_the_codes_of_vpt_and_vqt_do(num_classes, std):
    assert weight("fan_out", num_classes).std().item() == pytest.approx(std, rel=0.02)


BF16 = {"dtype": torch.bfloat16, "device_type": "cpu"}


@pytest.mark.parametrize("head", [{}, {"hidden": (16,)}, {"norm": "batch"}, {"norm": "layer"}], ids=str)
def test_its_logits_are_not_rounded_where_autocast_rounds_all_else(head, images):
    model = adapted("lora", head=head).eval()
    with torch.autocast(**BF16):
        features, logits = model.features(images), model(images)
        of_features, of_rounded = model(features), model(features.bfloat16())
    assert not torch.equal(features, model.features(images))
    expected = model.head(features.float())
    assert (logits.dtype, of_features.dtype) == (torch.float32, torch.float32)
    assert torch.equal(logits, expected)
    assert torch.equal(of_features, expected)
    assert torch.equal(of_rounded, model.head(features.bfloat16().float()))
    assert not torch.equal(logits.bfloat16().float(), logits)


def close_call(model) -> None:
    """Two classes whose logits bf16 does not tell apart: the second is ahead by a thousandth."""
    classifier = model.head[-1]
    classifier.weight.data.zero_()
    classifier.bias.data = torch.tensor([5.0, 5.001, 0.0, 0.0])


def test_near_ties_are_decided_by_what_is_larger_wherever_images_are_scored():
    model, data = adapted("linear"), random_images(6)
    close_call(model)
    trainer = Trainer(**{**PLAIN, "precision": "bf16"})
    inference = trainer.inference("", workers=0, world=ALONE)
    everything = torch.ones(4, dtype=torch.bool)
    for columns in (
        judged(model, data, inference),
        score(model, data, inference, predictable=everything, before=None)[0],
    ):
        found = Predictions(*columns)
        assert found.predicted.tolist() == [1] * 6
        assert (found.confidence - torch.tensor([5.0, 5.001, 0, 0]).softmax(0)[1]).abs().max() < 1e-6


def test_a_step_in_bf16_moves_the_head_by_the_gradient_of_its_own_fp32(images, labels):
    model = adapted("linear")
    with torch.autocast(**BF16):
        features = model.features(images)
        logits = model(images)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    found = model.head[-1].weight.grad.clone()
    model.zero_grad()
    torch.nn.functional.cross_entropy(model.head(features.float()), labels).backward()
    assert torch.equal(found, model.head[-1].weight.grad)
