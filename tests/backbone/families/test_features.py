"""The untouched model of every family and variant gives timm's own features and gradients."""

import copy

import pytest
import torch
from torch import nn
from variants import CONVNEXT, EVA, VARIANTS, gated, small

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.match import family_of
from peft_vision.backbone.linear import Wrapper, part


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(3))


def assert_is_timms(model: nn.Module, images: torch.Tensor) -> None:
    model.eval()  # Sapiens-2's rotary coordinates jitter in training
    encoder = Encoder(copy.deepcopy(model))
    expected, features = model(images), encoder(images)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    expected.square().sum().backward()
    features.square().sum().backward()
    timms = dict(model.named_parameters())
    assert timms.keys() == dict(encoder.vit.named_parameters()).keys()
    for name, parameter in encoder.vit.named_parameters():
        if timms[name].grad is not None:
            torch.testing.assert_close(parameter.grad, timms[name].grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_and_gradients_are_timms(variant):
    assert_is_timms(small(variant), pictures(32, 32))


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_of_another_shape_are_timms(variant):
    height, width = (50, 36) if variant in CONVNEXT else (40, 24)  # no multiple of its patches, and at least 32
    assert_is_timms(small(variant, img_size=(height, width)), pictures(height, width))


@pytest.mark.parametrize("variant", ["ViT", "any size"])
def test_images_of_another_size_are_refused_where_timm_would_adapt_to_each(variant):
    model = small(variant, dynamic_img_size=True, img_size=(32, 48)).eval()
    assert model(pictures(40, 24)).shape == (3, 32)
    message = r"^these images are 40 x 24 px, and the model takes 32 x 48 px; .*img_size=\(40, 24\)\) makes one"
    with pytest.raises(ValueError, match=message):
        Encoder(copy.deepcopy(model))(pictures(40, 24))
    model.set_input_size(img_size=(40, 24))
    assert_is_timms(model, pictures(40, 24))


@pytest.mark.parametrize("variant", ["DINOv3", "EVA-02", "EVA", "PE core"])
def test_a_gate_is_honoured(variant):
    assert_is_timms(gated(small(variant)), pictures(32, 32))


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_of_the_state_stay_timms(variant):
    model = small(variant)
    names = list(model.state_dict())
    assert sorted(Encoder(model).vit.state_dict()) == sorted(names)


class Doubled(Wrapper):
    def part(self, tokens, rows):
        return 2 * part(self.inner, tokens, rows)

    def merged(self):
        raise NotImplementedError


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_wrapper_on_any_site_changes_the_output(variant):
    encoder = Encoder(small(variant).double()).eval()  # in which the least change is no rounding
    images = pictures(32, 32).double()
    with torch.no_grad():
        features = encoder(images)
        for path in encoder.stages[0].matrices():
            inner = encoder.part(path)
            encoder.replace(path, Doubled(inner))
            assert (encoder(images) - features).abs().max() > 1e-9, path
            encoder.replace(path, inner)
        assert torch.equal(encoder(images), features)


@pytest.mark.parametrize("variant", [variant for variant in EVA if variant in ("DINOv3", "mixed rotations")])
def test_rotary_coordinates_do_not_jitter_in_a_frozen_backbone(variant):
    model = small(variant, rope_jitter_coords=2.0, rope_shift_coords=1.0)
    encoder = Encoder(model.requires_grad_(False)).train()
    images = pictures(32, 32)
    assert torch.equal(encoder(images), encoder(images))
    assert not torch.equal(encoder.requires_grad_(True).train()(images), encoder(images))


@pytest.mark.parametrize("variant", ["ViT", "distilled DeiT", "DINOv3", "BEiT", "relative", "Swin-V2Cr", "ConvNeXt"])
def test_parts_that_a_family_would_leave_out_are_refused(variant):
    """As a later timm may have them."""
    family = family_of(small(variant))
    assert family.misfit(small(variant)) is None
    model = small(variant)
    block = family.blocks_of(model)[-1] if hasattr(family, "blocks_of") else model.blocks[-1]
    places = {"it has": model, "its blocks have": block, "its attention has": getattr(block, "attn", None)}
    for said, place in places.items():
        for neck in (nn.Linear(4, 4), nn.Parameter(torch.zeros(4))) if place is not None else ():
            place.neck = neck
            assert family.misfit(model) == f"{said} neck, which is not known here"
            del place.neck
    block.mlp = nn.Sequential(nn.Linear(4, 4))
    if not hasattr(family, "blocks_of") or variant == "ConvNeXt":
        assert "its MLPs are Sequential" in family.misfit(model)


def test_rotary_positions_of_an_unknown_kind_are_refused():
    model = small("DINOv3")
    model.rope = nn.Identity()
    assert family_of(small("DINOv3")).misfit(model) == "its positions are Identity"


ORDERED = ("DINOv3 plus (SwiGLU)", "post-norm, rotary, apart", "relative, post-norm", "BEiT", "Swin-V2", "ConvNeXt")


@pytest.mark.parametrize("variant", [*ORDERED, "Swin-V2Cr, norms in between"])
def test_operations_are_in_the_order_of_computation(variant):
    encoder = Encoder(small(variant)).eval()
    called: list[str] = []
    operations = [path for stage in encoder.stages for path in stage.operations]
    for path in operations:
        encoder.part(path).register_forward_hook(lambda *_, path=path: called.append(path))
    encoder(pictures(32, 32))
    assert called == operations
