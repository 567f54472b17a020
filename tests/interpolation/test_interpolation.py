"""Weights between a start and what tuning made of it."""

import copy

import pytest
import torch
from torch import Tensor

from conftest import tiny_vit
from peft_vision.backbone.merge import merged, unmergeable, unwrapped
from peft_vision.interpolation.wise_ft import between, changed
from peft_vision.models.model import Model
from shipped import METHODS as SHIPPED
from shipped import adapted

METHODS = ["full", "partial", "lora", "ssf", "vpt_deep", "adaptformer", "bitfit", "vqt", "repadapter"]
MERGED = {"lora", "ssf", "repadapter"}  # their products are scaled, so that sums have another order
BESIDE = {  # what no weight of a backbone computes begins as it began
    *("adapter_houlsby", "adapter_pfeiffer", "adapter_plus", "adaptformer", "convpass"),
    *("vpt_shallow", "vpt_deep", "vpt_bias", "vpt_lora", "vqt_vpt", "vqt_adaptformer"),
}


def pair(method: str, **options: object) -> tuple[Model, Model]:
    """A start, and a copy of it with all that it tunes changed."""
    before = adapted(method, **options).eval()
    after = copy.deepcopy(before)
    generator = torch.Generator().manual_seed(5)
    for tensor in after.tuned_state().values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return before, after


def without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


def logits(model: Model, images: Tensor) -> Tensor:
    return model(images).detach()


def assert_logits(found: Tensor, expected: Tensor, method: str) -> None:
    tolerance = 1e-4 if method in MERGED else 0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_the_ends_are_the_tuned_model_and_its_start(method, images):
    before, after = pair(method)
    last = logits(after, images)
    with unwrapped(before.encoder):
        first = logits(before, images)
    assert (first - last).abs().max() > 0.01
    with between(changed(before, after), after) as set_alpha:
        set_alpha(1.0)
        assert_logits(logits(after, images), last, method)
        set_alpha(0.0)
        assert_logits(logits(after, images), first, method)
        set_alpha(0.5)
        middle = logits(after, images)
    assert not torch.allclose(middle, first)
    assert not torch.allclose(middle, last)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_nobody_interpolates_stays_the_tuned_one(method, images):
    before, after = pair(method)
    with unwrapped(before.encoder):
        expected = after.head(before.features(images)).detach()
    with between(without_head(changed(before, after)), after) as set_alpha:
        set_alpha(0.0)
        assert_logits(logits(after, images), expected, method)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((method, {}) for method in SHIPPED),
        ("lora", {"dora": True, "targets": ("q", "proj", "fc2")}),
        ("combined", {"parts": ["ssf", "lora", "bitfit", "repadapter"]}),
        ("ssf", {"architecture": {"qkv_bias": False, "proj_bias": False, "pre_norm": True}}),
    ],
    ids=str,
)
def test_at_the_start_the_backbone_is_the_pretrained_one_where_what_was_added_can_be_merged(method, options, images):
    before, after = pair(method, **options)
    assert bool(unmergeable(after.encoder)) is (method in BESIDE)
    expected = tiny_vit(**options.get("architecture", {})).eval()(images)
    with between(changed(before, after), after) as set_alpha:
        set_alpha(0.0)
        if method in BESIDE:
            expected = before.encoder(images)
        found = after.encoder(images).detach()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("leave", ["normally", "by an error"])
@pytest.mark.parametrize("method", METHODS)
def test_afterwards_the_model_is_bit_for_bit_as_before(method, leave, images):
    before, after = pair(method)
    tensors, modules = copy.deepcopy(after.state_dict()), dict(after.named_modules())
    trains = {name: parameter.requires_grad for name, parameter in after.named_parameters()}
    last = logits(after, images)
    try:
        with between(changed(before, after), after) as set_alpha:
            set_alpha(0.3)
            if leave == "by an error":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    found = after.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert dict(after.named_modules()) == modules
    assert {name: parameter.requires_grad for name, parameter in after.named_parameters()} == trains
    assert torch.equal(logits(after, images), last)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_an_update_of_low_rank_is_scaled_and_not_its_factors(alpha):
    before, after = pair("lora")
    with merged(before.encoder), merged(after.encoder):
        start, end = (copy.deepcopy(model.encoder.state_dict()) for model in (before, after))
    moved = [name for name in start if not torch.equal(start[name], end[name])]
    assert moved
    assert all(name.endswith("attn.qkv.weight") for name in moved)
    with between(changed(before, after), after) as set_alpha:
        set_alpha(alpha)
        found = copy.deepcopy(after.encoder.state_dict())
    assert found.keys() == start.keys()
    for name in found:
        torch.testing.assert_close(found[name], start[name] + alpha * (end[name] - start[name]), rtol=1e-6, atol=1e-7)
    exact = {0.0: start, 1.0: end}.get(alpha, {})
    assert all(torch.equal(found[name], exact[name]) for name in exact)


def test_only_what_was_tuned_differs():
    before, after = pair("full")
    assert changed(before, after).keys() == after.tuned_state().keys()
    assert changed(before, before) == {}
    before, after = pair("vpt_deep")
    assert changed(before, after).keys() == after.tuned_state().keys()
    before, after = pair("partial")
    assert without_head(changed(before, after)).keys() < dict(after.encoder.named_parameters(prefix="encoder")).keys()


def test_the_start_is_not_touched():
    before, after = pair("lora")
    tensors = copy.deepcopy(before.state_dict())
    with between(changed(before, after), after) as set_alpha:
        set_alpha(0.5)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in before.state_dict().items())
