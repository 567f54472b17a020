"""VPT equals the paper's explicit concatenation, and counts what its formula says."""

import pytest
import timm
import torch

import peft_vision
from conftest import tiny_vit
from peft_vision.backbone.outline import shapes_alone
from peft_vision.models.model import Model
from shipped import adapted

ARCHITECTURES = {
    "class token": {},
    "average pooling": {"global_pool": "avg"},
    "attention pooling": {"global_pool": "map"},
    "register tokens": {"reg_tokens": 2},
    "key norm": {"qk_norm": True},
    "norm before the blocks": {"pre_norm": True},
}


def timm_blocks(architecture: dict, model: Model) -> torch.nn.Module:
    """Untouched timm blocks with the model's own weights."""
    vit = tiny_vit(**architecture)
    state = model.encoder.vit.state_dict()
    vit.load_state_dict({name: state.get(name, tensor) for name, tensor in vit.state_dict().items()})
    return vit


def logits_by_concatenation(model: Model, architecture: dict, images: torch.Tensor, prompts: list, deep: bool):
    """Jia et al.: prompts stand after the class token; deep ones are replaced before every block."""
    vit = timm_blocks(architecture, model)
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    count = prompts[0].shape[0]
    for index, block in enumerate(vit.blocks):
        if index == 0:
            tokens = torch.cat([tokens[:, :1], prompts[0].expand(len(images), -1, -1), tokens[:, 1:]], dim=1)
        elif deep:
            fresh = prompts[index].expand(len(images), -1, -1)
            tokens = torch.cat([tokens[:, :1], fresh, tokens[:, 1 + count :]], dim=1)
        tokens = block(tokens)
    tokens = torch.cat([tokens[:, :1], tokens[:, 1 + count :]], dim=1)  # gone before pooling
    return model.head(vit.forward_head(vit.norm(tokens), pre_logits=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@pytest.mark.parametrize("projection", [None, 12])
def test_deep_equals_explicit_concatenation(architecture, projection, images):
    model = adapted("vpt_deep", architecture=architecture, num_prompts=6, projection=projection).eval()
    prompts = [layer.context(1)[0] for layer in model.encoder.layers]
    expected = logits_by_concatenation(model, architecture, images, prompts, deep=True)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_shallow_equals_explicit_concatenation(architecture, images):
    model = adapted("vpt_shallow", architecture=architecture, num_prompts=6).eval()
    prompts = [model.encoder.layers[0].entrance.prompts(1)[0]]
    expected = logits_by_concatenation(model, architecture, images, prompts, deep=False)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


def test_gradients_equal_those_of_concatenation(images):
    model = adapted("vpt_deep", num_prompts=6).eval()
    prompts = [layer.context.prompts for layer in model.encoder.layers]
    expected = torch.autograd.grad(
        logits_by_concatenation(model, {}, images, prompts, deep=True).square().sum(), prompts
    )
    found = torch.autograd.grad(model(images).square().sum(), prompts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("deep", "count"), [("vpt_deep", 3 * 6 * 32), ("vpt_shallow", 6 * 32)])
def test_parameters_are_layers_times_prompts_times_width(deep, count):
    assert adapted(deep, num_prompts=6).parameter_counts().method == count


@pytest.mark.parametrize(("prompts", "count"), [(10, 92_160), (100, 921_600)])
def test_parameters_on_vit_b16_are_the_papers(prompts, count):
    with shapes_alone():
        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    vit = vit.to_empty(device="cpu")
    model = peft_vision.adapt(vit, method="vpt_deep", num_classes=100, num_prompts=prompts)
    assert model.parameter_counts().method == count


def test_a_projection_is_shared_by_all_layers_and_trains():
    model = adapted("vpt_deep", num_prompts=6, projection=12)
    assert model.parameter_counts().method == 3 * 6 * 12 + 12 * 32 + 32
    assert len({id(layer.context.project) for layer in model.encoder.layers}) == 1


def test_dropout_draws_a_mask_for_each_image_and_only_in_training(images):
    model = adapted("vpt_deep", num_prompts=6, dropout=0.5)
    same = images[:1].expand(2, -1, -1, -1)
    first, second = model(same)
    assert not torch.equal(first, second)
    first, second = model.eval()(same)
    torch.testing.assert_close(first, second)


def test_logits_do_not_depend_on_the_rest_of_the_batch(images):
    model = adapted("vpt_shallow").eval()
    torch.testing.assert_close(model(images)[:1], model(images[:1]))
