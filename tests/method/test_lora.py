"""LoRA and DoRA equal timm's forward with the updated weights; the fast path equals the plain one."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision import merged
from peft_vision.backbone.linear import ALL, part
from peft_vision.core.config import ConfigError
from peft_vision.method.lora import LowRankUpdate
from peft_vision.method.low_rank import Updated
from reference import (
    ARCHITECTURES,
    assert_changes_nothing,
    assert_computes,
    fused_rows,
    gradients,
    logits_with,
    lora_weights,
    randomised,
    size_on_vit_b16,
    tuned,
)
from shipped import adapted

TARGETS = [["q", "v"], ["k"], ["q", "k", "v"], ["qkv"], ["proj"], ["fc1", "fc2"], ["v", "proj", "fc1", "fc2"]]


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("targets", TARGETS, ids=",".join)
def test_logits_and_gradients_are_those_of_the_lora_weights(targets, dora, images):
    model = randomised("lora", targets=targets, rank=4, alpha=6, dora=dora)
    assert_computes(model, images, logits_with(model, {}, lora_weights(model, {}, scale=6 / 4), images))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES.values(), {"qkv_bias": False, "proj_bias": False}], ids=str)
def test_every_variant_of_the_backbone_is_updated_alike(architecture, dora, images):
    model = randomised("lora", architecture=architecture, targets=["q", "v", "fc1"], layers=(0, 2), dora=dora)
    weights = lora_weights(model, architecture, scale=1.0)
    assert len(weights) == 2 * 2
    assert_computes(model, images, logits_with(model, architecture, weights, images))


def test_rank_stabilised_divides_alpha_by_the_root_of_the_rank(images):
    model = randomised("lora", rank=4, alpha=6, rank_stabilised=True)
    assert_computes(model, images, logits_with(model, {}, lora_weights(model, {}, scale=6 / math.sqrt(4)), images))


@pytest.mark.parametrize("targets", TARGETS, ids=",".join)
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_attaching_changes_nothing(dora, targets, images):
    assert_changes_nothing(adapted("lora", targets=targets, dora=dora), images)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 294_912),
        ({"dora": True}, 313_344),
        ({"targets": ["qkv"]}, 294_912),  # as many, in another subspace
        ({"targets": ["q", "k", "v", "proj"]}, 2 * 294_912),
        ({"targets": ["fc1", "fc2"]}, 12 * 2 * 8 * 5 * 768),
        ({"rank": 1, "layers": [11]}, 2 * 2 * 768),
    ],
)
def test_parameters_on_vit_b16_are_the_published_ones(options, count):
    assert size_on_vit_b16("lora", **options) == count


def wrapped(targets: list[str], *, bias: bool = True, dropout: float = 0.0) -> LowRankUpdate:
    """Around a frozen layer 12 x 36, with updates that are not zero."""
    torch.manual_seed(0)
    inner = nn.Linear(12, 36, bias=bias).requires_grad_(False)
    wrapper = LowRankUpdate(inner, fused_rows(36, *targets), rank=3, scale=0.7, dropout=dropout, dora=False)
    for up in wrapper.up.values():
        nn.init.normal_(up)
    return wrapper


def through(wrapper: LowRankUpdate, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and the gradients of the inputs and of the updates."""
    tokens = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    outputs = wrapper.part(tokens, rows)
    updates = {name: parameter for name, parameter in wrapper.named_parameters() if "inner" not in name}
    return outputs, gradients(outputs, {"tokens": tokens, **updates})


def is_fast(outputs: Tensor) -> bool:
    return outputs.grad_fn is not None and "Updated" in outputs.grad_fn.name()


@pytest.mark.parametrize("rows", [ALL, slice(0, 12), slice(12, 36), slice(6, 30)], ids=str)
@pytest.mark.parametrize("targets", [["q", "v"], ["k"], ["q", "k", "v"], ["qkv"], ["fc1"]], ids=",".join)
@pytest.mark.parametrize("forced_by", ["a bias that trains", "dropout"])
def test_the_fast_path_equals_the_plain_one(forced_by, targets, rows):
    fast = wrapped(targets)
    plain = wrapped(targets, dropout=1e-30 if forced_by == "dropout" else 0.0)  # drops nothing, and multiplies by one
    plain.inner.bias.requires_grad_(forced_by != "dropout")
    (found, of_fast), (expected, of_plain) = through(fast, rows), through(plain, rows)
    assert (is_fast(found), is_fast(expected)) == (True, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert of_fast.keys() == of_plain.keys()
    for name, gradient in of_fast.items():
        torch.testing.assert_close(gradient, of_plain[name], rtol=1e-5, atol=1e-4, msg=name)


@pytest.mark.parametrize("targets", TARGETS, ids=",".join)
def test_whole_models_on_either_path_have_the_same_logits_and_gradients(targets, images):
    fast, plain = (randomised("lora", targets=targets) for _ in range(2))
    for layer in plain.encoder.layers:
        for wrapper in (module for module in layer.modules() if isinstance(module, LowRankUpdate)):
            wrapper.inner.bias.requires_grad_(True)
    found, expected = fast(images), plain(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    parameters = {name: plain.get_parameter(name) for name in tuned(fast)}
    other = gradients(expected, parameters)
    for name, gradient in gradients(found, tuned(fast)).items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (0, 3, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_fast_paths_gradients_are_those_of_finite_differences(bias, shape):
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    inputs = torch.randn(shape, **double, requires_grad=True)
    weight, shift = torch.randn(9, 4, **double), torch.randn(9, **double) if bias else None
    sizes = [(2, 4), (3, 2), (2, 4), (4, 2)]
    updates = [torch.randn(size, **double, requires_grad=True) for size in sizes]
    rows = [slice(0, 3), slice(5, 9)]

    def outputs(inputs: Tensor, *updates: Tensor) -> Tensor:
        return Updated.apply(inputs, weight, shift, 0.7, rows, *updates)

    assert torch.autograd.gradcheck(outputs, (inputs, *updates))


def test_inputs_that_need_no_gradient_get_none():
    wrapper = wrapped(["q"])
    outputs = wrapper(torch.randn(2, 5, 12))
    outputs.sum().backward()
    assert is_fast(outputs)
    assert wrapper.up["q"].grad.abs().max() > 0


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_autocast_trains_close_to_fp32(dora, images):
    """Relative to all gradients together, for those of queries are small differences."""
    found = {}
    for enabled in (False, True):
        model = randomised("lora", targets=["q", "v", "fc1"], dora=dora)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(images).float()
        of_updates = gradients(logits, {name: each for name, each in tuned(model).items() if "head" not in name})
        assert {gradient.dtype for gradient in of_updates.values()} == {torch.float32}
        found[enabled] = (logits, torch.cat([gradient.flatten() for gradient in of_updates.values()]))
    for exact, rounded in zip(found[False], found[True], strict=True):
        assert 0 < (rounded - exact).norm() < 4 * 2**-8 * exact.norm()  # bf16 rounds to 2^-8


def test_autocast_does_not_round_a_small_update_away():
    """W' in bf16 would be W, were the update smaller than half the distance of its neighbours."""
    wrapper = wrapped(["fc1"])
    inner, tokens = wrapper.inner, torch.eye(12)
    inner.weight.data.fill_(1.0)
    inner.bias.data.fill_(-1.0)  # so that nothing but the update is left
    wrapper.down["fc1"].data.fill_(1 / 32)
    wrapper.up["fc1"].data.fill_(1 / 32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = wrapper(tokens)
    torch.testing.assert_close(outputs.float(), torch.full((12, 36), 0.7 * 3 / 1024), rtol=0.01, atol=0)


def test_dropout_is_of_the_inputs_of_the_updates_and_only_in_training():
    wrapper = wrapped(["fc1"], dropout=0.5)
    tokens = torch.randn(4, 12)
    mask = F.dropout(torch.ones(4, 12), 0.5)
    wrapper.dropout.forward = lambda inputs: inputs * mask
    low = (tokens * mask) @ wrapper.down["fc1"].mT
    expected = wrapper.inner(tokens) + 0.7 * low @ wrapper.up["fc1"].mT
    torch.testing.assert_close(wrapper.train()(tokens), expected)
    assert is_fast(wrapper.eval()(tokens))


@pytest.mark.parametrize("training", [True, False])
def test_a_row_of_zeros_has_no_direction_and_is_left_until_it_trains(training, images, labels):
    """DoRA would divide it by its length, zero."""
    vit = tiny_vit()
    for block in vit.blocks:
        block.attn.qkv.weight.data[[3, 70]] = 0
    options = {"dora": True, "targets": ("q", "v"), "dropout": 0.5}
    model = peft_vision.adapt(vit, method="lora", num_classes=4, **options).train(training)
    wrapper = model.encoder.layers[0].attn.qkv
    expected = vit.eval()(images)
    torch.testing.assert_close(model.encoder(images), expected)  # `up` is zero
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        for parameter in model.parameters():
            if parameter.requires_grad:
                assert parameter.grad.isfinite().all()
                parameter.data -= 0.1 * parameter.grad
    assert wrapper.up["q"][3].abs().max() > 0  # so it had a gradient
    assert wrapper.magnitude["v"][70 - 64].abs() > 0  # and then a length
    logits = model.eval()(images)
    with merged(model):
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-5)


def test_updates_of_rows_that_nobody_reads_get_no_gradient():
    wrapper = wrapped(["q", "v"])
    part(wrapper, torch.randn(2, 12), slice(0, 12)).sum().backward()
    assert wrapper.up["q"].grad is not None
    assert wrapper.up["v"].grad is None


def test_q_k_and_v_have_updates_of_their_own_and_qkv_shares_one_down_projection():
    apart, fused = (adapted("lora", targets=targets, rank=4) for targets in (["q", "k", "v"], ["qkv"]))
    apart, fused = (model.encoder.layers[0].attn.qkv for model in (apart, fused))
    assert {name: up.shape for name, up in apart.up.items()} == dict.fromkeys("qkv", (32, 4))
    assert {name: up.shape for name, up in fused.up.items()} == {"qkv": (96, 4)}
    assert not any(torch.equal(first, second) for first, second in pairwise(apart.down.values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["q", "q"]}, "method.targets: .* should name each matrix once"),
        ({"targets": ["q", "qkv"]}, "method.targets: .* qkv is q, k and v"),
        ({"targets": []}, "method.targets: "),
        ({"targets": ["x"]}, r"method.targets: got .'x'., should be among q, k, v"),
        ({"rank": 33}, r"method.rank: got 33, but q of layer 0 is 32 x 32; at most 32"),
        ({"rank": 0}, "method.rank: got 0"),
        ({"dropout": 1.0}, "method.dropout: got 1.0"),
        ({"rnk": 4}, "unknown rnk; LoRA takes .*; did you mean rank?"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        adapted("lora", **options)
