"""A part of what a linear layer computes is a slice of the whole, whatever wraps it; merged it is one plain layer."""

import pytest
import torch
from torch import nn

from peft_vision.backbone.linear import ALL, Wrapper, linear, part
from peft_vision.method.fact import Factorised, Factors
from peft_vision.method.lora import LowRankUpdate
from peft_vision.method.repadapter import InputAdapter
from peft_vision.method.scale_shift import ScaleShift
from reference import fused_rows

WIDTH = 12
ROWS = [slice(0, WIDTH), slice(WIDTH, 2 * WIDTH), slice(WIDTH, 3 * WIDTH), ALL]


def low_rank(inner: nn.Module, *targets: str, dora: bool = False) -> Wrapper:
    return LowRankUpdate(inner, fused_rows(inner.out_features, *targets), 3, scale=0.7, dropout=0.1, dora=dora)


WRAPPERS = {
    "lora": lambda inner: low_rank(inner, "q", "v"),
    "lora on all of it": lambda inner: low_rank(inner, "qkv"),
    "dora": lambda inner: low_rank(inner, "k", "v", dora=True),
    "ssf": lambda inner: ScaleShift(inner, 3 * WIDTH),
    "repadapter": lambda inner: InputAdapter(inner, 4, groups=2, scale=0.7, dropout=0.1),
    "fact_tt": lambda inner: Factorised(inner, Factors(WIDTH, 4, num_blocks=None), scale=0.7, dropout=0.1),
    "fact_tk": lambda inner: Factorised(inner, Factors(WIDTH, 4, num_blocks=3), scale=0.7, dropout=0.1),
    "lora, ssf": lambda inner: ScaleShift(low_rank(inner, "q"), 3 * WIDTH),
    "ssf, lora": lambda inner: low_rank(ScaleShift(inner, 3 * WIDTH), "q", "k"),
    "dora, repadapter": lambda inner: InputAdapter(
        low_rank(inner, "v", dora=True), 4, groups=1, scale=0.7, dropout=0.1
    ),
}


def wrapped(name: str, *, bias: bool = True) -> Wrapper:
    """In evaluation mode, with nothing at the zero it starts from."""
    torch.manual_seed(0)
    wrapper = WRAPPERS[name](nn.Linear(WIDTH, 3 * WIDTH, bias=bias)).requires_grad_(False).eval()
    for module in wrapper.modules():
        if isinstance(module, Factorised):
            module.factors.v.data.normal_()
    for parameter in wrapper.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return wrapper


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_part_is_a_slice_of_the_whole(name, bias, rows, tokens):
    wrapper = wrapped(name, bias=bias)
    torch.testing.assert_close(part(wrapper, tokens, rows), wrapper(tokens)[..., rows])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [name for name in WRAPPERS if "," not in name])
def test_merged_is_one_plain_layer_that_computes_the_same(name, bias, tokens):
    wrapper = wrapped(name, bias=bias)
    expected = wrapper(tokens)
    plain = wrapper.merged()
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_of_a_plain_layer_no_other_rows_are_read(bias, rows, tokens):
    plain = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
    expected = plain(tokens)[..., rows].clone()
    others = [index for index in range(3 * WIDTH) if index not in range(*rows.indices(3 * WIDTH))]
    for parameter in plain.parameters():
        parameter.data[others] = torch.nan
    torch.testing.assert_close(part(plain, tokens, rows), expected)


def test_what_merely_looks_like_a_linear_layer_is_not_bypassed(tokens):
    class Negated(nn.Linear):
        def forward(self, tokens):
            return -super().forward(tokens)

    negated = Negated(WIDTH, 3 * WIDTH)
    expected = negated(tokens)
    for module in (negated, nn.Sequential(negated)):
        assert torch.equal(part(module, tokens, slice(3, 7)), expected[..., 3:7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_plain_layer_is_rounded_once_to_the_type_of_another_and_does_not_train(bias, dtype):
    like = nn.Linear(4, 3, bias=bias, dtype=dtype).eval()
    weight, shift = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    plain = linear(weight, shift if bias else None, like)
    assert torch.equal(plain.weight, weight.to(dtype))
    assert (plain.bias is None) if not bias else torch.equal(plain.bias, shift.to(dtype))
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert (plain.training, plain.in_features, plain.out_features) == (False, 4, 3)
