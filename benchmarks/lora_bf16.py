"""This benchmark compares ways to compute LoRA under bf16 autocast: the two products of `method/lora.py` as autograd
follows them, and two custom functions.

    python benchmarks/lora_bf16.py [--model vit_tiny_patch16_224] [--image-size 96] [--batch 16] [--targets q v]

`joined` keeps both products in the forward pass and adds the second to the first in place, backward too. `merged`
multiplies by W' = W + scale * up @ down, rounded to bf16, as is done in fp32. For each it prints the errors of one
layer's outputs and gradients against fp64, as multiples of those of today's way; how much of the change that a small
update makes in the outputs is lost (1: all of it); the memory that autograd keeps; and the CPU time of a training step,
forward and backward, as a multiple of today's (they take turns; medians).
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from time import process_time

import timm
import torch
from timing import kept_mib, medians, training_step
from torch import Tensor, nn
from torch.nn import functional as F

import peft_vision
from peft_vision.backbone.frozen_weights import rounded_once
from peft_vision.method.lora import LowRankUpdate
from peft_vision.method.low_rank import Updated

_SEEDS = 5
_SMALL = 1e-4  # standard deviation of `up` in a small update, whose product with `down` is some 1e-4 of W
Part = Callable[[LowRankUpdate, Tensor, slice], Tensor]


class Joined(torch.autograd.Function):
    """An autograd function as `Updated`, of two products whose results are added in place."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None, scale: float, rows: list, *updates: Tensor):
        """Return the outputs (..., O)."""
        outputs, lows = F.linear(inputs, weight, bias), []
        for target_rows, down, up in zip(rows, updates[::2], updates[1::2], strict=True):
            lows.append(inputs.flatten(0, -2) @ down.mT)
            outputs.flatten(0, -2)[:, target_rows].addmm_(lows[-1], up.mT, alpha=scale)
        ctx.scale, ctx.rows = scale, rows
        ctx.save_for_backward(inputs, weight, *lows, *updates)
        return outputs

    @staticmethod
    def backward(ctx, gradient: Tensor):
        """Return the gradients of the inputs and of the updates."""
        inputs, weight, *rest = ctx.saved_tensors
        lows, updates = rest[: len(ctx.rows)], rest[len(ctx.rows) :]
        gradient, flat = gradient.flatten(0, -2), inputs.flatten(0, -2)
        of_inputs = gradient @ weight
        below = [gradient[:, rows] @ up for rows, up in zip(ctx.rows, updates[1::2], strict=True)]
        of_inputs.addmm_(torch.cat(below, dim=1), torch.cat(updates[::2]), alpha=ctx.scale)
        of_updates = [
            ctx.scale * each
            for rows, low, under in zip(ctx.rows, lows, below, strict=True)
            for each in (under.mT @ flat, gradient[:, rows].mT @ low)
        ]
        return of_inputs.view_as(inputs), None, None, None, None, *of_updates


def by(function: type[torch.autograd.Function], self: LowRankUpdate, tokens: Tensor, rows: slice) -> Tensor:
    """Compute `part` of a LoRA by a custom function in bf16."""
    cut, inner = self._cut(rows), self.inner
    factors = [factor for target, up_rows, _ in cut for factor in (self.down[target], self.up[target][up_rows])]
    few = [tokens, inner.weight[rows], inner.bias[rows], *factors]
    tokens, weight, bias, *factors = (tensor.to(torch.bfloat16) for tensor in few)
    return function.apply(tokens, weight, bias, self.scale, [here for *_, here in cut], *factors)


WAYS: dict[str, Part] = {
    "today": LowRankUpdate.part,
    "joined": partial(by, Joined),
    "merged": partial(by, Updated),
}


def layer(seed: int, size: float) -> LowRankUpdate:
    """Return a ViT-Ti's fused projection with updates of q and v, whose `up` has this standard deviation."""
    torch.manual_seed(seed)
    inner = nn.Linear(192, 576).requires_grad_(False)
    nn.init.trunc_normal_(inner.weight, std=0.02)
    rows = {"q": slice(0, 192), "v": slice(384, 576)}
    made = LowRankUpdate(inner, rows, 8, scale=1.0, dropout=0.0, dora=False)
    for up in made.up.values():
        nn.init.normal_(up, std=size)
    return made


def computed(way: Part, made: LowRankUpdate, *, double: bool = False) -> dict[str, Tensor]:
    """Return outputs and gradients in bf16, or by today's way in fp64."""
    made = copy.deepcopy(made).double() if double else made
    dtype, generator = torch.float64 if double else torch.float32, torch.Generator().manual_seed(0)
    leaf = torch.randn(4, 50, 192, generator=generator).to(dtype).requires_grad_()
    made.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=not double):
        outputs = way(made, leaf * 1, slice(None))  # as behind a norm, so that autocast keeps no cast of it
    outputs.backward(torch.randn(outputs.shape, generator=generator).to(outputs.dtype))
    factors = {name: p.grad.double() for name, p in made.named_parameters() if p.requires_grad}
    return {"outputs": outputs.detach().double(), "inputs": leaf.grad.double(), **factors}


def errors(way: Part, size: float) -> dict[str, float]:
    """Return the mean relative errors against fp64: of outputs, and of the gradients of inputs and factors."""
    total: dict[str, float] = {}
    for seed in range(_SEEDS):
        made = layer(seed, size)
        found, exact = computed(way, made), computed(WAYS["today"], made, double=True)
        for name, value in exact.items():
            kind = name if name in ("outputs", "inputs") else name.partition(".")[0]
            total[kind] = total.get(kind, 0.0) + ((found[name] - value).norm() / value.norm()).item()
    return total


def lost(way: Part) -> float:
    """Return the error of the change that a small update makes in the outputs, as a share of that change."""
    shares = []
    for seed in range(_SEEDS):
        made, none = layer(seed, _SMALL), layer(seed, 0.0)
        change = computed(way, made)["outputs"] - computed(way, none)["outputs"]
        exact = (computed(WAYS["today"], each, double=True)["outputs"] for each in (made, none))
        expected = next(exact) - next(exact)
        along = (change * expected).sum() / expected.square().sum()  # rounding is across it, and averages out
        shares.append(1 - along.item())
    return sum(shares) / len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--targets", nargs="+", default=["q", "v"])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    vit = timm.create_model(options.model, num_classes=0, img_size=options.image_size)
    model = peft_vision.adapt(vit, method="lora", num_classes=10, targets=tuple(options.targets)).train()
    images = torch.randn(options.batch, 3, options.image_size, options.image_size)
    labels = torch.randint(0, 10, (options.batch,))

    def step(way: Part, work: Callable) -> object:
        LowRankUpdate.part = lambda self, tokens, rows: way(self, tokens, rows)
        with torch.autocast("cpu", torch.bfloat16):
            return work()

    with rounded_once(model.encoder, torch.bfloat16, biases_of_qkv=True):
        kept = {name: step(way, lambda: kept_mib(model, images)) for name, way in WAYS.items()}
        steps = {name: partial(step, way, partial(training_step, model, images, labels)) for name, way in WAYS.items()}
        seconds = medians(steps, options.repeats, torch.device("cpu"), clock=process_time)
    usual = errors(WAYS["today"], 0.01)
    shape = f"{options.image_size} px, batch {options.batch}, {' '.join(options.targets)}"
    print(f"{options.model}, {shape}, torch {torch.__version__}")
    for name, way in WAYS.items():
        ratios = "  ".join(f"{kind} {error / usual[kind]:.2f}" for kind, error in errors(way, 0.01).items())
        line = f"{name:7} errors: {ratios}  lost {lost(way):5.2f}  kept {kept[name]:6.1f} MiB"
        print(f"{line}  step {seconds[name] / seconds['today']:.2f}")


if __name__ == "__main__":
    main()
