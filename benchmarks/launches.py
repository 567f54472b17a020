"""This benchmark counts what a training step asks of a device, which sets its speed where a GPU waits for launches.

    OMP_NUM_THREADS=1 python benchmarks/launches.py [--repeats 60]

A step is forward and backward in bf16 autocast, of a ViT with the depth of ViT-B and next to no width on one image of
32 px, so that its time is that of the host, which finds and starts each operation. It needs no GPU. LoRA on the fused
qkv is compared with Hugging Face's `peft`, VPT-deep with prompts that are concatenated in front of every timm block.
`kernels`: operations that compute or copy; `views`: those that do not; `host`: CPU time, of the other's.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import timm
import torch
from lora_step import by_peft
from timing import medians, training_step
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from vpt_step import concatenating

import peft_vision
from peft_vision.backbone.frozen_weights import rounded_once


class Counting(TorchDispatchMode):
    """A context that counts the operations of torch, `kernels` and `views`. An operation without a result, or whose
    result is new memory that nothing writes, is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.views: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> object:
        name = operation._schema.name.removeprefix("aten::")
        returned = operation._schema.returns
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in returned)
        if is_view or name == "_unsafe_view":
            self.views[name] += 1
        elif returned and "empty" not in name and operation.namespace == "aten":
            self.kernels[name] += 1
        return operation(*args, **(kwargs or {}))


def vit(num_classes: int) -> nn.Module:
    """Return a narrow ViT of twelve layers."""
    torch.manual_seed(0)
    shape = {"img_size": 32, "embed_dim": 24, "num_heads": 2}
    return timm.create_model("vit_base_patch16_224", num_classes=num_classes, **shape).eval()


def step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        training_step(model, images, labels)


def counted(act: Callable[[], None]) -> Counting:
    """Return what an act asks for once it is warm."""
    act()
    with Counting() as counting:
        act()
    return counting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    images, labels = torch.randn(1, 3, 32, 32), torch.tensor([0])
    ours = {
        "lora": peft_vision.adapt(vit(100), method="lora", num_classes=100, targets=("qkv",)),
        "vpt_deep": peft_vision.adapt(vit(100), method="vpt_deep", num_classes=100),
    }
    rank = len(next(iter(ours["lora"].encoder.layers[0].attn.qkv.down.values())))
    theirs = {
        "lora": ("peft", by_peft(vit(100), rank)),
        "vpt_deep": ("concatenation", concatenating(vit(0), ours["vpt_deep"])),
    }
    print(f"torch {torch.__version__}, timm {timm.__version__}, {options.repeats} repeats\n")
    print("| method | by | kernels | views | host |\n|---|---|---|---|---|")
    for method, (label, other) in theirs.items():
        model = ours[method].train()
        with rounded_once(model.encoder, torch.bfloat16, biases_of_qkv=True):
            acts = {label: partial(step, other.train(), images, labels), "here": partial(step, model, images, labels)}
            seconds = medians(acts, options.repeats, torch.device("cpu"), clock=time.process_time)
            for name, act in acts.items():
                asked = counted(act)
                numbers = f"{asked.kernels.total()} | {asked.views.total()} | {seconds[name] / seconds[label]:.2f}"
                print(f"| `{method}` | {name} | {numbers} |")


if __name__ == "__main__":
    main()
