"""Methods that change the backbone alone segment, with every head that reads a grid; others say that they cannot."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from peft_vision.core.config import ConfigError
from peft_vision.head.segmentation import SegmentLinear, SetrPup
from peft_vision.testing import (
    a_saved_model_is_the_same_model,
    checkpointing_changes_no_gradient,
    every_pooling_works,
    what_is_stored_is_what_is_computed,
    what_moves_is_what_trains,
)
from shipped import METHODS, adapted, train

SETR = SetrPup(norm="batch", hidden=(8, 6), dropout=0.0, std=0.05)
HEADS = {"segment_linear": "segment_linear", "multi_linear": "multi_linear", "setr_pup": SETR}
ONE_VECTOR = {"vqt", "vqt_vpt", "vqt_lora", "vqt_adaptformer", "head2toe"}
CHANGING = sorted(set(METHODS) - ONE_VECTOR - {"combined"})
CHECKS = (  # those of METHOD_CHECKS that a head may fail with one method and not with another
    what_moves_is_what_trains,
    a_saved_model_is_the_same_model,
    every_pooling_works,
)
PIXELS = torch.arange(5 * 32 * 32).view(5, 32, 32) % 4
segmenting = partial(adapted, objective="segmentation")


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_method_that_changes_the_backbone_passes_the_checks_with_a_head_for_segmentation(check, method):
    check(partial(segmenting, method, head="segment_linear"))


@pytest.mark.parametrize("method", CHANGING)
def test_a_head_for_segmentation_reads_what_is_stored_as_what_is_computed(method):
    make = partial(segmenting, method, head="segment_linear", **({} if method == "linear" else {"layers": "last-1"}))
    assert make().eval().frozen is not None
    what_is_stored_is_what_is_computed(make)


@pytest.mark.parametrize("method", ["lora", "vpt_shallow", "vpt_deep", "full", "bitfit"])
@pytest.mark.parametrize("head", ["multi_linear", "setr_pup"])
def test_every_tensor_that_is_tuned_gets_a_gradient(method, head, images):
    model = segmenting(method, head=HEADS[head])
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
        segmenting(method, head=HEADS[head])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("thickness", [8, 4])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's resampling of tables
def test_the_pixels_of_a_border_are_cut_off_however_patches_lie_on_it(thickness, images):
    head = SegmentLinear(norm="none", hidden=(), dropout=0.0, std=0.5)
    model = segmenting("vpt_shallow", location="pad", num_prompts=thickness, head=head).eval()
    assert model.frozen is None
    bordered = model.encoder.border(images)
    grid = model.encoder.vit.forward_intermediates(bordered, indices=1, norm=True, intermediates_only=True)[0]
    whole = F.interpolate(model.head(grid), size=tuple(bordered.shape[2:]), mode="bilinear", align_corners=False)
    within = slice(thickness, thickness + 32)
    torch.testing.assert_close(model(images), whole[:, :, within, within])


def test_prompts_behind_the_patches_are_no_places_of_the_grid():
    trunk = segmenting("vpt_shallow", head="multi_linear").encoder.trunk
    tokens = torch.randn(2, trunk.num_tokens + 3, 32)
    assert torch.equal(trunk.grid(tokens, 0), trunk.grid(tokens[:, : trunk.num_tokens], 0))


def test_prompts_are_not_pooled_where_nothing_is():
    with pytest.raises(ConfigError, match=r"method\.pool_prompts: got true, but the head reads a grid.*=false"):
        segmenting("vpt_deep", architecture={"global_pool": "avg"}, pool_prompts=True, head="segment_linear")


def test_tokens_before_the_first_changed_layer_are_stored_where_the_head_reads_behind_it(images):
    late = segmenting("lora", layers="last-1", head="segment_linear")
    train(late, images, PIXELS)  # it begins as no change
    assert (late.eval().depth, late.frozen) == (2, {"tokens"})
    in_one_pass = late.observe(images, late.readout.reads)
    assert torch.equal(late(late.observe(images)), late.logits(late.features(in_one_pass)))
    several = segmenting("lora", layers="last-1", head="multi_linear")
    assert several.frozen is None  # its head reads the first layer too


@pytest.mark.parametrize("method", ["vpt_deep", "vpt_shallow"])
def test_recomputing_activations_changes_no_gradient_of_several_grids(method):
    checkpointing_changes_no_gradient(partial(segmenting, method, head="multi_linear"))
