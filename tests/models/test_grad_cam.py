"""Grad-CAM is the paper's, on every family."""

import pytest
import torch
from any_variants import small_any
from captum.attr import LayerGradCam
from torch.nn import functional as F
from variants import small

import peft_vision
from conftest import tiny_vit
from peft_vision.core.config import ConfigError
from peft_vision.models import grad_cam as grad_cam_module
from peft_vision.models.grad_cam import grad_cam


def of_class_1(outputs: torch.Tensor) -> torch.Tensor:
    return outputs[:, 1]


@pytest.mark.parametrize("variant", ["ResNet", "ConvNeXt, norm before pooling"])
def test_behind_average_pooling_it_is_the_heads_weights_times_the_map(variant, images):
    """Then d y / d A_k is w_k / (h w) at every place."""
    vit = small_any(variant) if variant == "ResNet" else small(variant)
    model = peft_vision.adapt(vit, method="linear", num_classes=4).eval()
    images = F.interpolate(images, size=64)
    found = grad_cam(model, images, of_class_1, layer=None)
    if variant != "ResNet":
        assert found.shape == (5, 2, 2)
        return
    with torch.no_grad():
        shown = model.encoder.vit.forward_features(model.normalize(images))
    features = shown.mean(dim=(2, 3)).requires_grad_()
    (weights,) = torch.autograd.grad(model.head(features)[:, 1].sum(), features)
    expected = torch.einsum("bk,bkhw->bhw", weights, shown).relu() / shown[0, 0].numel()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("variant", "last"), [("ResNet", "layer4"), ("EfficientNet", "bn2"), ("RegNet", "s4")])
def test_where_channels_come_first_it_is_captums_of_timms_own_layer(variant, last, images):
    model = peft_vision.adapt(small_any(variant), method="full", num_classes=4).eval()
    images = model.normalize(F.interpolate(images, size=64))
    maps = LayerGradCam(model, model.encoder.vit.get_submodule(last))
    expected = maps.attribute(images, target=1, relu_attributions=True).squeeze(1)
    found = grad_cam(model, images, of_class_1, layer=None)
    torch.testing.assert_close(found, expected.detach())
    assert found.shape == expected.shape
    assert found.amax(dim=(1, 2)).min() > 0


def test_on_a_vit_it_is_of_the_last_patches_that_the_class_token_reads(images):
    model = peft_vision.adapt(tiny_vit(), method="lora", num_classes=4).eval()
    vit = model.encoder.vit
    with torch.no_grad():
        tokens = vit.blocks[1](vit.blocks[0](vit.norm_pre(vit._pos_embed(vit.patch_embed(model.normalize(images))))))
    tokens.requires_grad_()
    (slope,) = torch.autograd.grad(model.head(vit.norm(vit.blocks[2](tokens))[:, 0])[:, 1].sum(), tokens)
    weighed = slope[:, 1:].mean(dim=1, keepdim=True) * tokens[:, 1:]
    expected = weighed.sum(dim=2).relu().view(5, 4, 4).detach()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(grad_cam(model, images, of_class_1, layer=None), expected)
    assert before == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert torch.equal(grad_cam(model, images, of_class_1, layer=1), grad_cam(model, images, of_class_1, layer=None))
    with pytest.raises(ConfigError, match=r"^task.map: what leaves layer 2 of .* is \(1, 32\) of an"):
        grad_cam(model, images, of_class_1, layer=2)


def test_a_missing_captum_comes_with_the_line_that_installs_it(images, monkeypatch):
    monkeypatch.setattr(grad_cam_module.importlib.util, "find_spec", lambda name: None)
    model = peft_vision.adapt(tiny_vit(), method="linear", num_classes=4)
    with pytest.raises(ConfigError, match=r"^task\.map=grad_cam needs captum: pip install 'peft-vision\[explain\]'$"):
        grad_cam(model, images, of_class_1, layer=None)


@pytest.mark.parametrize(
    ("variant", "method", "shape"),
    [("Swin", "vpt_deep", (2, 2)), ("DINOv3", "vqt", (4, 4)), ("BEiT", "head2toe", (4, 4))],
)
def test_every_family_has_a_grid_for_every_method(variant, method, shape, images):
    model = peft_vision.adapt(small(variant), method=method, num_classes=4).eval()
    with torch.no_grad():
        expected = model(images)
    maps = grad_cam(model, images, of_class_1, layer=None)
    assert maps.shape == (5, *shape)
    assert maps.min() >= 0 < maps.max()
    assert torch.equal(model(images), expected)
