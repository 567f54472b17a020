"""This benchmark shows how near a LoRA step on a CPU is to the machine's matrix products, and what is left to gain.

    python benchmarks/lora_flop_rate.py [--model vit_tiny_patch16_224 --size 96 --batch 32] [--compiled]

A step is forward, backward and an update by AdamW; torch counts its floating-point operations
(`torch.utils.flop_counter`). `one large product` is of 1,536 x 1,536 matrices, the most that the machine gives.
`products of a step` are those of the step, in their shapes and strides, with nothing between them: no program that
computes them by the same library is faster than that, however well norms, GELU, attention and updates are fused.
`--compiled` adds the step under torch.compile, which fuses what lies between the products. bf16 is measured where the
CPU computes in it (AVX-512 BF16 or AMX). All take turns, and medians are printed; OMP_NUM_THREADS sets the threads.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import timm
import torch
from timing import medians
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import peft_vision

_LARGE = 1536
_PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


class ProductCounter(TorchDispatchMode):
    """A mode that counts the matrix products of what runs within it, by shape and stride of both operands."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in _PRODUCTS:
            operands = [one for one in args if isinstance(one, Tensor)][-2:]
            self.found[tuple((tuple(one.shape), one.stride(), one.dtype) for one in operands)] += 1
        return func(*args, **(kwargs or {}))


def step_of(model: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool = False) -> Callable[[], None]:
    """Return a step of `model`: forward, backward and an update."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def products_of(step: Callable[[], None]) -> Callable[[], None]:
    """Return a function that computes the matrix products of a step, and nothing else."""
    with ProductCounter() as counter:
        step()

    def drawn(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        spanned = 1 + sum((size - 1) * along for size, along in zip(shape, stride, strict=True))
        return torch.randn(spanned).to(dtype).as_strided(shape, stride)

    products = [(*(drawn(*operand) for operand in operands), times) for operands, times in counter.found.items()]

    def run() -> None:
        for left, right, times in products:
            for _ in range(times):
                left @ right

    return run


def operations(run: Callable[[], None]) -> int:
    """Return the floating-point operations of `run`, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="the step under torch.compile too")
    options = parser.parse_args()

    torch.manual_seed(0)
    backbone = timm.create_model(options.model, img_size=options.size, num_classes=10)
    model = peft_vision.adapt(backbone, method="lora", num_classes=10, targets=("qkv",), rank=8, alpha=8).train()
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.randint(0, 10, (options.batch,))
    large = torch.randn(_LARGE, _LARGE)

    step = step_of(model, images, labels)
    step()  # its optimizer has its state now
    contenders = {"one large product": lambda: large @ large, "products of a step": products_of(step), "step": step}
    counted = {name: operations(run) for name, run in contenders.items()}
    if options.compiled:
        contenders["step, compiled"] = step_of(torch.compile(model), images, labels)
        counted["step, compiled"] = counted["step"]
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        contenders["step, bf16"] = step_of(model, images, labels, bf16=True)
        counted["step, bf16"] = counted["step"]
    seconds = medians(contenders, options.repeats, torch.device("cpu"))

    print(f"{options.model}, {options.size} px, batch {options.batch}, {torch.get_num_threads()} threads", end=", ")
    print(f"torch {torch.__version__}: images per second {options.batch / seconds['step']:.1f}\n")
    print("| | GFLOP | ms | GFLOP/s | of the large product | time / step |\n|---|---|---|---|---|---|")
    most = counted["one large product"] / seconds["one large product"]
    for name, taken in seconds.items():
        rate = counted[name] / taken
        against = "" if name == "one large product" else f"{taken / seconds['step']:.2f}"
        amounts = f"{counted[name] / 1e9:.2f} | {1e3 * taken:.1f} | {rate / 1e9:.1f}"
        print(f"| {name} | {amounts} | {100 * rate / most:.0f} % | {against} |")


if __name__ == "__main__":
    main()
