"""How a head begins."""

import pytest
import torch

from peft_vision.head import Head


def weight(std, num_classes):
    torch.manual_seed(0)
    classifier = Head(norm="none", hidden=(), dropout=0.0, std=std).build(4096, num_classes)[-1]
    assert torch.equal(classifier.bias, torch.zeros(num_classes))
    return classifier.weight.detach()


def test_its_weights_spread_as_asked():
    assert weight(0.05, 10).std().item() == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(("num_classes", "std"), [(2, 1.0), (8, 0.5), (200, 0.1)])
def test_fan_out_is_what_the_codes_of_vpt_and_vqt_do(num_classes, std):
    assert weight("fan_out", num_classes).std().item() == pytest.approx(std, rel=0.02)
