"""Matrices in few bits are those of bitsandbytes, and a layer that holds one computes as if it held the fp32 matrix of
its numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from peft_vision.backbone.linear import part
from peft_vision.backbone.quantized import PackedMatrix, QuantizedLinear
from peft_vision.core import bitsandbytes
from peft_vision.core.config import ConfigError

library = pytest.importorskip("bitsandbytes")
BITS = (8, 4)
SIDES = [(48, 16), (7, 10), (1, 3), (192, 65)]


def drawn(outputs: int, inputs: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(outputs)
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.weight.requires_grad_(False)
    return layer


def quantized(layer: nn.Linear, bits: int) -> nn.Linear:
    layer = copy.deepcopy(layer)
    QuantizedLinear.hold(layer, PackedMatrix.of(layer.weight, bits))
    return layer


@pytest.mark.parametrize("sides", SIDES)
def test_four_bit_are_those_of_bitsandbytes_with_scales_in_eight(sides):
    weight = drawn(*sides).weight
    with torch.compiler.set_stance("force_eager"):  # the library compiles what it computes
        theirs = library.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        expected = library.functional.dequantize_4bit(*theirs)
    assert torch.equal(PackedMatrix.of(weight, 4).unpacked(), expected)


@pytest.mark.parametrize("sides", SIDES)
def test_eight_bit_are_those_of_llm_int8_and_err_by_half_a_step_at_most(sides):
    weight = drawn(*sides).weight
    packed = PackedMatrix.of(weight, 8)
    numbers, largest, _ = library.functional.int8_vectorwise_quant(weight)
    assert (packed.tensors["numbers"].int() - numbers.int()).abs().max() <= 1  # ties of another order of operations
    torch.testing.assert_close(packed.tensors["scales"].flatten() * 127, largest)
    assert ((packed.unpacked() - weight).abs() <= packed.tensors["scales"] * 0.5001).all()


def test_a_row_of_zeros_stays_one():
    weight = torch.zeros(3, 128)
    weight[1] = 2.0
    for bits in BITS:
        assert torch.equal(PackedMatrix.of(weight, bits).unpacked(), weight)


def test_a_layer_computes_as_that_of_bitsandbytes():
    plain = drawn(48, 64)
    theirs = library.nn.Linear4bit(64, 48, compute_dtype=torch.float32, quant_type="nf4")
    theirs.load_state_dict(plain.state_dict())
    tokens = torch.randn(5, 64)
    torch.testing.assert_close(quantized(plain, 4)(tokens), theirs.to("cpu")(tokens))
    theirs = library.nn.Linear8bitLt(64, 48, has_fp16_weights=False)
    theirs.load_state_dict(plain.state_dict())
    outputs = theirs.to("cpu")(tokens)  # which rounds the tokens to 8 bit as well
    assert (quantized(plain, 8)(tokens) - outputs).norm() < 0.02 * outputs.norm()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bf16", [False, True])
def test_outputs_and_gradients_are_those_of_the_matrix_of_its_numbers(bits, bias, bf16):
    ours = quantized(drawn(48, 64, bias=bias), bits)
    plain = ours.plain()
    assert (type(plain), plain.weight.requires_grad) == (nn.Linear, False)
    for layer in (ours, plain):
        if bias:
            layer.bias.requires_grad_(True)
    found = []
    for layer in (ours, plain):
        leaf = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        tokens = leaf * 1  # of a leaf, autocast would add up the gradients of two products in bf16
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs, few = layer(tokens), part(layer, tokens, slice(16, 32))
        assert outputs.dtype == few.dtype == (torch.bfloat16 if bf16 else torch.float32)
        (outputs.square().sum() + few.sum()).backward()
        found.append([outputs, few, leaf.grad, *([layer.bias.grad] if bias else [])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bits", BITS)
def test_the_backward_pass_keeps_no_matrix(bits):
    ours, kept = quantized(drawn(48, 64), bits), []
    tokens = torch.randn(5, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        ours(tokens).sum()
    assert kept == []


@pytest.mark.parametrize("bits", BITS)
def test_it_compiles_as_one_graph_with_the_same_gradients(bits):
    torch.compiler.reset()
    layers = [quantized(drawn(48, 16), bits) for _ in range(2)]
    tokens = [torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2)]
    plain = layers[0](tokens[0])
    compiled = torch.compile(layers[1], backend="aot_eager", fullgraph=True)(tokens[1])
    torch.testing.assert_close(compiled, plain, rtol=0, atol=0)
    plain.square().sum().backward()
    compiled.square().sum().backward()
    torch.testing.assert_close(tokens[1].grad, tokens[0].grad, rtol=0, atol=0)
    torch.testing.assert_close(layers[1].bias.grad, layers[0].bias.grad, rtol=0, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_it_takes_few_bytes_and_moves_with_its_layer(bits):
    ours = quantized(drawn(256, 128), bits)
    assert dict(ours.named_parameters()).keys() == ours.state_dict().keys() == {"bias"}
    scales = {8: 256 * 4, 4: 256 * 128 // 64 + 4 * (2 + 1)}[bits]
    assert ours.packed.num_bytes == 256 * 128 * bits // 8 + scales
    before, tokens = ours.weight, torch.randn(3, 128)
    moved = copy.deepcopy(ours).to(torch.bfloat16)
    assert torch.equal(moved.weight, before)  # only its bias is of another type now
    assert moved(tokens.bfloat16()).dtype == torch.bfloat16
    assert ours.to("meta").packed.tensors["numbers"].is_meta
    torch.testing.assert_close(F.linear(tokens.bfloat16(), before.bfloat16(), moved.bias), moved(tokens.bfloat16()))


def test_a_missing_library_comes_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(bitsandbytes, "is_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"^backbone.frozen_bits: 4 takes .* pip install 'peft-vision\[bits8\]'$"):
        PackedMatrix.of(torch.ones(2, 2), 4)
    assert PackedMatrix.of(torch.ones(2, 2), 8).unpacked().tolist() == [[1, 1], [1, 1]]
