"""Heads for segmentation give logits of each pixel, with every method that changes the backbone alone."""

from functools import partial

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peft_vision
from peft_vision.core.config import ConfigError
from peft_vision.exchange import onnx_model
from peft_vision.exchange.timm_weights import timm_state
from peft_vision.head.base import Head
from peft_vision.head.segmentation import MultiLinear, SegmentLinear, SetrPup
from peft_vision.models.model import Model
from peft_vision.testing import (
    a_saved_model_is_the_same_model,
    check_head,
    checkpointing_changes_no_gradient,
    every_pooling_works,
    what_is_stored_is_what_is_computed,
    what_moves_is_what_trains,
)
from shipped import METHODS, adapted

HEADS = ("segment_linear", "multi_linear", "setr_pup")
ONE_VECTOR = {"vqt", "vqt_vpt", "vqt_lora", "vqt_adaptformer", "head2toe"}
CHANGING = sorted(set(METHODS) - ONE_VECTOR - {"combined"})
CHECKS = (  # those of METHOD_CHECKS that a head may fail with one method and not with another
    what_moves_is_what_trains,
    a_saved_model_is_the_same_model,
    what_is_stored_is_what_is_computed,
    every_pooling_works,
)
PIXELS = torch.arange(5 * 32 * 32).view(5, 32, 32) % 4


segmenting = partial(adapted, objective="segmentation")


def plain(kind: type[Head], **changes: object) -> Head:
    return kind(**{"norm": "none", "hidden": (), "dropout": 0.0, "std": 0.05, **changes})


def random_head(model: Model) -> Model:
    """The model with a head whose last layer's bias is not zero, and whose norms have seen some images."""
    for parameter in model.head.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.train()(torch.randn(5, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_method_that_changes_the_backbone_passes_the_checks_with_a_head_for_segmentation(check, method):
    check(partial(segmenting, method, head="segment_linear"))


@pytest.mark.parametrize("head", HEADS)
def test_a_head_passes_the_checks_for_own_ones(head):
    check_head(head)


@pytest.mark.parametrize("method", ["lora", "vpt_shallow", "vpt_deep", "full", "bitfit"])
@pytest.mark.parametrize("head", ["multi_linear", "setr_pup"])
def test_every_tensor_that_is_tuned_gets_a_gradient(method, head, images):
    model = segmenting(method, head=head)
    optimizer = torch.optim.Adam(model.trained().values(), lr=0.01)
    for _ in range(2):  # one factor begins at zero
        optimizer.zero_grad()
        F.cross_entropy(model(images), PIXELS).backward()
        optimizer.step()
    for name, parameter in model.trained().items():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", sorted(ONE_VECTOR))
def test_a_method_that_makes_one_vector_says_so_in_a_line(method, head):
    with pytest.raises(
        ConfigError, match=r"^head: it reads features at each place .* (VQT|Head2Toe) makes one"
    ) as error:
        segmenting(method, head=head)
    assert "\n" not in str(error.value)


def test_the_linear_head_is_a_convolution_of_the_grid_resized_to_the_image(images):
    model = random_head(segmenting("linear", head=plain(SegmentLinear)))
    linear = model.head.inner[-1]
    grid = model.encoder.observe(images, {"grid"}).grid
    expected = F.conv2d(grid, linear.weight[:, :, None, None], linear.bias)
    expected = F.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), expected)


def test_the_norm_is_over_all_places_of_all_images(images):
    model = segmenting("linear", head=plain(SegmentLinear, norm="batch")).train()
    grid, linear = model.encoder.observe(images, {"grid"}).grid, model.head.inner[-1]
    normed = nn.BatchNorm2d(32, affine=False)(grid)
    torch.testing.assert_close(
        model.head(grid), F.conv2d(normed, linear.weight[:, :, None, None], linear.bias), rtol=1e-4, atol=1e-5
    )


def test_the_head_on_several_layers_reads_them_side_by_side(images):
    model = segmenting("linear", head=plain(MultiLinear))
    assert model.readout.width == 3 * 32  # of three layers
    seen = model.encoder.observe(images, {"grids", "grid"})
    grids = model.readout(seen)
    assert torch.equal(grids[:, -32:], seen.grid)
    torch.testing.assert_close(model(images), model.logits(grids))


def test_progressive_upsampling_is_that_of_the_paper(images):
    model = random_head(segmenting("linear", head=plain(SetrPup, norm="batch", hidden=(6, 5))))
    found = model.encoder.observe(images, {"grid"}).grid
    norm, *layers, _ = model.head.layers
    grid = F.layer_norm(found.permute(0, 2, 3, 1), (32,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
    for convolution, batch_norm in ((layers[0], layers[1]), (layers[4], layers[5])):
        grid = F.conv2d(grid, convolution.weight, padding=1)
        grid = F.batch_norm(
            grid, batch_norm.running_mean, batch_norm.running_var, batch_norm.scale, batch_norm.shift
        ).relu()
        grid = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)(grid)
    assert grid.shape == (5, 5, 16, 16)
    linear = model.head.classifier
    expected = F.conv2d(grid, linear.weight[:, :, None, None], linear.bias)
    torch.testing.assert_close(model.head(found), expected)
    expected = F.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), expected)


def test_four_doublings_of_16_px_patches_are_the_pixels_and_nothing_is_resized():
    head = plain(SetrPup, norm="batch", hidden=(256,) * 4).build(1024, 150)
    count = sum(parameter.numel() for parameter in head.parameters())
    assert count == 1024 * 256 * 9 + 3 * 256 * 256 * 9 + 4 * 2 * 256 + 2 * 1024 + 257 * 150
    assert head.eval()(torch.randn(1, 1024, 2, 3)).shape == (1, 150, 32, 48)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_other_norms_of_the_convolutions_train(norm, images):
    model = segmenting("linear", head=plain(SetrPup, norm=norm, hidden=(6,), dropout=0.1))
    F.cross_entropy(model(images), PIXELS).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.head.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_in_fp32_where_autocast_rounds_all_else(head, images):
    model = random_head(segmenting("lora", head=head))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits.bfloat16().float(), logits)
    torch.testing.assert_close(logits, model(images), rtol=0, atol=0.02 * logits.abs().max().item())


@pytest.mark.parametrize("head", HEADS)
def test_stored_grids_of_16_bit_give_nearly_the_logits_of_images(head, images):
    model = random_head(segmenting("linear", head=head))
    expected = model(images)
    model.round_observations_to(torch.float32, grid=torch.float16)
    seen = model.observe(images)
    kept = {"grids" if head == "multi_linear" else "grid"}
    assert {kind for kind in ("features", "grid", "grids") if getattr(seen, kind) is not None} == kept == model.frozen
    assert seen.pack(*kept).dtype == torch.float16
    assert torch.equal(model(seen), model(images))
    torch.testing.assert_close(model(seen), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("thickness", [8, 4])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's resampling of tables
def test_the_pixels_of_a_border_are_cut_off_however_patches_lie_on_it(thickness, images):
    model = random_head(segmenting("vpt_shallow", location="pad", num_prompts=thickness, head=plain(SegmentLinear)))
    assert model.frozen is None
    bordered = model.encoder.border(images)
    grid = model.encoder.vit.forward_intermediates(bordered, indices=1, norm=True, intermediates_only=True)[0]
    whole = F.interpolate(model.head(grid), size=tuple(bordered.shape[2:]), mode="bilinear", align_corners=False)
    within = slice(thickness, thickness + 32)
    torch.testing.assert_close(model(images), whole[:, :, within, within])


def test_prompts_are_not_pooled_where_nothing_is():
    with pytest.raises(ConfigError, match=r"method\.pool_prompts: got true, but the head reads a grid.*=false"):
        segmenting("vpt_deep", architecture={"global_pool": "avg"}, pool_prompts=True, head="segment_linear")


def test_tokens_before_the_first_changed_layer_are_stored_where_the_head_reads_behind_it(images):
    late = segmenting("lora", layers="last-1", head="segment_linear").eval()
    assert (late.depth, late.frozen) == (2, {"tokens"})
    assert torch.equal(late(late.observe(images)), late(images))
    several = segmenting("lora", layers="last-1", head="multi_linear")
    assert several.frozen is None  # its head reads the first layer too


@pytest.mark.parametrize("head", ["multi_linear", "setr_pup"])
def test_onnxruntime_computes_the_same_logits_of_pixels(head, tmp_path):
    model = random_head(segmenting("lora", head=head))
    onnx_model.write(model, tmp_path / "model.onnx")
    (output,) = onnx.load(tmp_path / "model.onnx").graph.output
    assert [axis.dim_value for axis in output.type.tensor_type.shape.dim][1:] == [4, 32, 32]
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(onnx_model.logits(tmp_path / "model.onnx", pixels), model(pixels), rtol=1e-4, atol=1e-4)


def test_timm_has_no_form_of_it():
    with pytest.raises(ValueError, match="its head segments, and timm's models end in a head on one vector"):
        timm_state(segmenting("lora", head="segment_linear"))


@pytest.mark.parametrize("method", ["vpt_deep", "vpt_shallow"])
def test_recomputing_activations_changes_no_gradient_of_several_grids(method):
    checkpointing_changes_no_gradient(partial(segmenting, method, head="multi_linear"))


@pytest.mark.parametrize("head", ["multi_linear", "setr_pup"])
def test_compiling_changes_nothing(head, images):
    model = random_head(segmenting("vpt_deep", head=head))
    compiled = torch.compile(model, backend="aot_eager")(images)
    torch.testing.assert_close(compiled, model(images), rtol=1e-4, atol=1e-5 * compiled.abs().max().item())


def test_a_saved_file_is_not_taken_for_a_model_of_features(tmp_path, vit):
    model = segmenting("lora", head="segment_linear").eval()
    peft_vision.save(model, tmp_path / "adapter.safetensors")
    again = peft_vision.load(tmp_path / "adapter.safetensors", vit)
    assert again.segments
    assert not peft_vision.adapt(vit, method="lora", num_classes=4).segments
