"""VQT equals the authors' concatenation around untouched timm blocks, uncached and from stored observations."""

import pytest
import timm
import torch
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision.backbone.observation import Observation
from peft_vision.backbone.outline import shapes_alone
from peft_vision.models.model import Model
from shipped import adapted

ARCHITECTURES = {
    "class token": {},
    "average pooling": {"global_pool": "avg"},
    "attention pooling": {"global_pool": "map"},
    "register tokens": {"reg_tokens": 2},
    "query and key norms": {"qk_norm": True},
    "attention and MLP norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "norm before the blocks": {"pre_norm": True},
    "layer scale": {"init_values": 0.1},
    "no biases": {"qkv_bias": False},
}
PRECISE = {"rtol": 1e-5, "atol": 1e-6}


def logits_by_concatenation(model: Model, architecture: dict, images: torch.Tensor, queries: list[torch.Tensor]):
    """Tu et al.: query rows go through the block beside the image's, keys and values come from the image's rows only,
    query rows are cut off before the next block."""
    vit = tiny_vit(**architecture)
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    summaries = []
    for block, rows in zip(vit.blocks, queries, strict=True):
        count = len(rows)
        both = torch.cat([rows.expand(len(images), -1, -1), tokens], dim=1)
        attention = block.attn
        qkv = attention.qkv(block.norm1(both)).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = attention.q_norm(qkv[0]), attention.k_norm(qkv[1, :, :, count:]), qkv[2, :, :, count:]
        mixed = ((query @ key.mT) * attention.scale).softmax(dim=-1) @ value
        both = both + block.ls1(attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2))))
        both = both + block.ls2(block.mlp(block.norm2(both)))
        summaries.append(both[:, :count].flatten(1))
        tokens = both[:, count:]
    pooled = vit.forward_head(vit.norm(tokens), pre_logits=True)
    return model.head(torch.cat([F.normalize(feature) for feature in [pooled, *summaries]], dim=1))


def tuned(model: Model) -> list[torch.Tensor]:
    return [module.prompts for module in model.readout.queries]


def observed(model: Model, images: torch.Tensor) -> Observation:
    """As a store would hand it out: contexts cut from one tensor."""
    seen = model.observe(images)
    return Observation(features=seen.pack("features"), contexts=seen.pack("contexts").unbind(1)).readable()


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@pytest.mark.parametrize("num_queries", [1, 3])
def test_logits_and_gradients_equal_those_of_concatenation(architecture, num_queries, images):
    model = adapted("vqt", architecture=architecture, num_queries=num_queries).eval()
    queries = tuned(model)
    expected = logits_by_concatenation(model, architecture, images, queries)
    for found in (model(images), model(observed(model, images))):
        torch.testing.assert_close(found, expected, **PRECISE)
        gradients = torch.autograd.grad(found.square().sum(), queries, retain_graph=True)
        torch.testing.assert_close(
            gradients, torch.autograd.grad(expected.square().sum(), queries, retain_graph=True), rtol=1e-4, atol=1e-6
        )


def test_folding_the_projections_equals_keys_and_values_on_a_real_size():
    """Relative to the largest value, on 197 tokens of width 192."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    model = peft_vision.adapt(vit, method="vqt", num_classes=10, num_queries=10).eval()
    images = torch.randn(2, 3, 224, 224)
    results = []
    for seen in (model.observe(images), observed(model, images)):
        folded = model(seen)
        results.append((folded, *torch.autograd.grad(folded.square().sum(), tuned(model))))
    for layer in model.encoder.layers:  # a wrapper cannot be folded: keys and values are computed
        layer.attn.qkv = torch.nn.Sequential(layer.attn.qkv)
    plain = model(images)
    results.append((plain, *torch.autograd.grad(plain.square().sum(), tuned(model))))
    for found in zip(*results, strict=True):
        for other in found[:2]:
            assert (other - found[2]).abs().max() <= 1e-5 * found[2].abs().max()


@pytest.mark.parametrize(
    "options",
    [{}, {"architecture": {"qk_norm": True}}, {"frozen_bits": 8}],
    ids=["folded keys", "normed keys", "keys by a quantized layer"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_16_bit_observations_change_logits_by_their_rounding(dtype, tolerance, options, images):
    model = adapted("vqt", num_queries=3, **options).eval()
    exact = model(images)
    model.round_observations_to(dtype)
    rounded = model(images)
    assert model.observe(images).contexts[0].dtype == dtype
    assert 0 < (rounded - exact).abs().max() < tolerance * exact.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_the_backbones_own_features_stay_bit_identical(architecture, images):
    model = adapted("vqt", architecture=architecture, num_queries=3)
    assert torch.equal(model.observe(images).features, adapted("linear", architecture=architecture).features(images))


@pytest.mark.parametrize(("queries", "method", "head"), [(1, 9_216, 998_500), (10, 92_160, 9_292_900)])
def test_parameters_on_vit_b16_are_the_papers(queries, method, head):
    with shapes_alone():
        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    vit = vit.to_empty(device="cpu")
    counts = peft_vision.adapt(vit, method="vqt", num_classes=100, num_queries=queries).parameter_counts()
    assert (counts.method, counts.head) == (method, head)


def test_each_part_of_the_features_has_length_one(images):
    features = adapted("vqt", num_queries=3).eval().features(images)
    assert features.shape == (5, 32 + 3 * 3 * 32)
    pooled, summaries = features[:, :32], features[:, 32:].unflatten(1, (3, 96))
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(summaries.norm(dim=2), torch.ones(5, 3))


@pytest.mark.parametrize("normalize", [True, False])
def test_a_summary_is_the_mean_or_a_weighted_sum_of_the_queries(normalize, images):
    whole, mean, weighted = (
        adapted("vqt", num_queries=3, summary=summary, normalize=normalize).eval()
        for summary in ("concatenate", "mean", "weighted_sum")
    )
    weights = torch.randn(3, 3)
    weighted.readout.weights.data = weights
    outputs = adapted("vqt", num_queries=3, normalize=False).eval().features(images)[:, 32:].view(5, 3, 3, 32)
    ready = (lambda summary: F.normalize(summary, dim=-1)) if normalize else (lambda summary: summary)
    torch.testing.assert_close(whole.features(images)[:, 32:], ready(outputs.flatten(2)).flatten(1), **PRECISE)
    torch.testing.assert_close(mean.features(images)[:, 32:], ready(outputs.mean(2)).flatten(1), **PRECISE)
    expected = ready(torch.einsum("blqd,lq->bld", outputs, weights)).flatten(1)
    torch.testing.assert_close(weighted.features(images)[:, 32:], expected, **PRECISE)
    assert weighted.parameter_counts().method == 3 * 3 * 32 + 3 * 3


def test_dropout_draws_a_mask_for_each_image_and_only_in_training(images):
    model = adapted("vqt", dropout=0.5)
    same = images[:1].expand(2, -1, -1, -1)
    assert not torch.equal(*model(same))
    torch.testing.assert_close(*model.eval()(same))


def test_autograd_keeps_nothing_of_the_backbone_but_one_context_a_layer(images):
    """Nothing as large as the hidden units of an MLP, and nothing twice."""
    model = adapted("vqt")
    kept: dict[int, int] = {}
    parameters = {parameter.data_ptr() for parameter in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images)
    context = len(images) * 17 * 32 * 4
    assert sorted(kept.values())[-3:] == [context] * 3
    assert max(sorted(kept.values())[:-3]) < context


def test_autocast_trains_close_to_fp32(images, labels):
    losses = {}
    for enabled in (False, True):
        model = adapted("vqt", dropout=0.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(images)
        losses[enabled] = F.cross_entropy(logits.float(), labels)
        losses[enabled].backward()
        assert all(query.grad.dtype == torch.float32 for query in tuned(model))
        assert all(query.grad.abs().max() > 0 for query in tuned(model))
    assert losses[True].item() == pytest.approx(losses[False].item(), rel=0.01)


def test_a_context_that_takes_gradients_gets_them(images):
    """As it will when another method changes the tokens that the queries look at."""
    model = adapted("vqt").eval()
    model.encoder.layers[0].norm1.weight.requires_grad_(True)
    model(images).square().sum().backward()
    assert model.encoder.layers[0].norm1.weight.grad.abs().max() > 0


def test_a_process_without_an_image_computes_along(images):
    model = adapted("vqt")
    logits = model(images[:0])
    logits.sum().backward()
    assert logits.shape == (0, 4)
    assert all(not query.grad.any() for query in tuned(model))
